"""Names of hash types and flow rules as DPDK has them. Nothing here calls DPDK."""

RSS_TYPES: dict[str, int]
"""RTE_ETH_RSS_* by the names that Port.report has."""
