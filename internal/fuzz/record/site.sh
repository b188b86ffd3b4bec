ip link add br0 type bridge
ip link add v0 type veth peer name v1
ip link add ifb0 type ifb
ip link set v0 master br0
ip link add v2 type veth peer name v3
for d in lo br0 v0 v1 v2 v3 ifb0; do ip link set $d up; done
ip address add 10.0.0.1/24 dev v1
ip address add 10.5.0.1/24 dev v3
ip -6 address add 2001:db8::1/64 dev v1 nodad
ip neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v1
ip -6 neighbour add fe80::2 lladdr 02:00:00:00:00:02 dev v1
ip route add 10.1.0.0/24 via 10.0.0.2
ip route add 10.2.0.0/24 nexthop via 10.0.0.2 weight 1 nexthop via 10.5.0.2 weight 2
ip route add 10.3.0.0/24 via inet6 fe80::2 dev v1
ip route add blackhole 10.6.0.0/24
ip -6 route add 2001:db8:1::/64 via fe80::2 dev v1
ip -6 route add 2001:db8:2::/64 nexthop via fe80::2 dev v1 nexthop via fe80::3 dev v1
ip rule add fwmark 0x1/0xff table 7
ip rule add from 10.0.0.0/24 iif v1 table 8
ip rule add ipproto tcp dport 80-90 table 9
tc qdisc add dev v1 clsact
tc filter add dev v1 ingress protocol ip u32 match ip dport 80 0xffff action mirred egress redirect dev ifb0
tc filter add dev v1 ingress protocol ip u32 match ip dport 81 0xffff action mirred egress mirror dev v0
tc filter add dev v1 ingress protocol ipv6 u32 match u32 0 0 action mirred ingress redirect dev v2
nft -f - <<'NFT'
table ip t {
	set single { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 } }
	set ranges { type ipv4_addr; flags interval; elements = { 10.0.0.0/24, 10.0.2.0-10.0.2.9 } }
	set ends { type ipv4_addr; flags interval; elements = { 0.0.0.0/8, 255.255.255.0/24 } }
	set catch { type ipv4_addr; flags interval; elements = { 10.0.0.1, * } }
	set timed { type ipv4_addr; flags timeout; elements = { 10.0.0.1 timeout 1h, 10.0.0.2 timeout 2h } }
	set tuples { type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service; flags timeout; elements = { tcp . 10.0.0.1 . 1 . 10.0.0.2 . 80 timeout 1h, icmp . 10.0.0.1 . 7 . 10.0.0.2 . 2048 timeout 1h } }
	map verdicts { type ipv4_addr : verdict; flags interval; elements = { 10.0.0.0/30 : drop, 10.0.0.9 : accept } }
	chain c {
		ip saddr @single counter packets 7 bytes 700 drop comment "stopped"
		tcp dport { 80, 443 } ct state established counter packets 1 bytes 2 accept comment "accepted"
		meta l4proto tcp reject with tcp reset
	}
}
table ip6 t6 {
	set ranges { type ipv6_addr; flags interval; elements = { 2001:db8::/64, ffff::/16, ::1 } }
}
table netdev n {
	chain in { type filter hook ingress devices = { v0, v1 } priority 0; ip daddr 10.9.0.0/16 counter fwd to v1; jump other; }
	chain other { udp dport 53 drop; }
}
NFT
