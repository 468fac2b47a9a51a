"""What the network between agent and relay does to packets: loss, blackholes, NAT, a slow queue.

All of it is done on the host `net`, in the path of forwarding, both ways.
nftables decides by chance (`numgen`), tbf limits the rate; what takes time
or changes octets is the work of a `wire`.
"""

from __future__ import annotations

from scripts.lab.hosts import Network

FAULTS = "inet lab_faults"
NAT = "ip lab_nat"
PER_MILLE = 1_000


async def drop(net: Network, *rules: str) -> None:
    """Drop, from now on, the forwarded packets that match one of *rules* (and no others; no ICMP is sent)."""
    lines = [f"add table {FAULTS}", f"delete table {FAULTS}", f"add table {FAULTS}"]
    lines.append(f"add chain {FAULTS} forward {{ type filter hook forward priority 0 ; }}")
    lines += [f"add rule {FAULTS} forward {rule} counter drop" for rule in rules]
    await net.run("net", "nft", "-f", "-", text="\n".join(lines) + "\n")


async def lose(net: Network, percent: float) -> None:
    """Lose that share of packets, each way, by chance."""
    await drop(net, f"numgen random mod {PER_MILLE} < {round(percent * PER_MILLE / 100)}")


async def blackhole(net: Network) -> None:
    """Lose everything both ways."""
    await drop(net, "")


async def heal(net: Network) -> None:
    """Drop nothing any more."""
    await drop(net)


async def dropped(net: Network) -> int:
    """Return how many packets were dropped since the last change."""
    words = (await net.run("net", "nft", "list", "table", *FAULTS.split())).split()
    return sum(int(words[at + 1]) for at, word in enumerate(words) if word == "packets")


async def masquerade(net: Network, rule: str = "masquerade random") -> None:
    """Hide the agent behind the network's address (or what *rule* says), and forget how until now.

    What comes from the relay and belongs to no connection that the NAT knows is dropped without a word.
    """
    lines = [f"add table {NAT}", f"delete table {NAT}", f"add table {NAT}"]
    lines.append(f"add chain {NAT} after {{ type nat hook postrouting priority 100 ; }}")
    lines.append(f"add rule {NAT} after ip saddr {{ 10.81.1.0/24, 10.81.3.0/24 }} {rule}")
    lines.append(f"add chain {NAT} unasked {{ type filter hook input priority 0 ; }}")
    lines.append(f'add rule {NAT} unasked iifname != "agent*" ip daddr 10.81.2.0/24 drop')
    lines.append(f"add chain {NAT} lost {{ type filter hook forward priority 0 ; }}")
    lines.append(f"add rule {NAT} lost ct state invalid drop")
    await net.run("net", "nft", "-f", "-", text="\n".join(lines) + "\n")
    await forget(net)


async def forget(net: Network) -> None:
    """Let the NAT forget every connection: the next packet of each gets a new port."""
    await net.run("net", "conntrack", "-F")


async def rate(net: Network, device: str, rate: str, *, latency: str = "400ms", burst: str = "8k") -> None:
    """Limit what leaves by *device* to *rate*, behind a queue as deep as *latency*."""
    words = f"qdisc replace dev {device} root tbf rate {rate} burst {burst} latency {latency}".split()
    await net.run("net", "tc", *words)
