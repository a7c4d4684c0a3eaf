"""TCP echo, client and server, over any port.

python examples/tcp_echo.py                                    both ends in this process, over mem:
python examples/tcp_echo.py --dev xdp:eth1 --ip 10.0.0.2/24    a server on eth1; talk to it with `nc 10.0.0.2 7777`
python examples/tcp_echo.py --dev xdp:eth1 --ip 10.0.0.2/24 --connect 10.0.0.1     a client
"""

import argparse
import socket
import threading
from contextlib import ExitStack

import pybypass as pb


def serve(listener: pb.Listener, clients: int) -> None:
    """Sends back what comes, straight from the frames that the NIC wrote."""
    for _ in range(clients):
        with listener.accept() as connection:
            while (piece := connection.recv_view()) is not None:
                connection.sendall(piece)
                del piece  # the frame goes back to the NIC
            connection.shutdown(socket.SHUT_WR)
            connection.wait_sent(5)


def talk(connection: pb.Connection, messages: int) -> None:
    for i in range(messages):
        message = f"message {i}".encode()
        connection.sendall(message)
        answer = connection.recv(100)
        assert answer == message, answer
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    info = connection.info()
    print(f"{messages} messages echoed, srtt {info['srtt_us']} us, {info['retransmits']} retransmissions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", default="mem:echo", metavar="URI")
    parser.add_argument("--ip", default="10.0.0.2/24", metavar="A/N")
    parser.add_argument("--port", type=int, default=7777)
    parser.add_argument("--connect", metavar="A", help="be a client of this address")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=1, help="serve this many, then end")
    args = parser.parse_args()

    with ExitStack() as stack:
        port = stack.enter_context(pb.open(args.dev))
        engine = stack.enter_context(pb.Engine(port, ip=args.ip))
        if args.connect:
            talk(stack.enter_context(engine.connect((args.connect, args.port), timeout=5)), args.messages)
            return
        listener = stack.enter_context(engine.listen(args.port))
        print(f"listening on {args.ip} port {args.port}, {port.mode}", flush=True)
        if port.kind != "mem":
            serve(listener, args.clients)
            return
        # mem: joins two ports of one process: the other end is ours as well.
        other = stack.enter_context(pb.open(args.dev))
        client = stack.enter_context(pb.Engine(other, ip="10.0.0.1/24"))
        server = threading.Thread(target=serve, args=(listener, 1))
        server.start()
        talk(stack.enter_context(client.connect((args.ip.split("/")[0], args.port), timeout=5)), args.messages)
        server.join()


if __name__ == "__main__":
    main()
