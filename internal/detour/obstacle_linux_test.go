package detour

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"

	vnl "github.com/vishvananda/netlink"
	vnlnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// obstacle puts something on a device, inside the device's namespace.
type obstacle struct {
	name string
	want []string // findings, %s is the device
	put  func(dev vnl.Link) error
}

// What programs return.
const (
	xdpPass   = 2 // XDP_PASS
	tcxNext   = 0xffffffff
	elsewhere = "lan2" // a device that packets can be taken to
)

// obstacles are found, each on its device.
var obstacles = []obstacle{
	{"XDP", []string{"XDP program on %s (xdp_pass)"}, func(dev vnl.Link) error {
		return labtest.WithProgram(unix.BPF_PROG_TYPE_XDP, "xdp_pass", xdpPass, func(fd int) error {
			return vnl.LinkSetXdpFd(dev, fd)
		})
	}},
	{"XDP without a name", []string{"XDP program on %s (program #)"}, func(dev vnl.Link) error {
		return labtest.WithProgram(unix.BPF_PROG_TYPE_XDP, "", xdpPass, func(fd int) error {
			return vnl.LinkSetXdpFd(dev, fd)
		})
	}},
	{"tcx", []string{"tc program on %s (tcx_in)"}, func(dev vnl.Link) error {
		return attachTCX(dev, "tcx_in", unix.BPF_TCX_INGRESS)
	}},
	{"cls_bpf", []string{"tc program on %s (cls_in)"}, func(dev vnl.Link) error {
		return clsBPF(dev, "cls_in", vnl.HANDLE_MIN_INGRESS)
	}},
	{"egress redirect", []string{"tc filter on %s (u32, redirects to lan2)"}, func(dev vnl.Link) error {
		return mirred(dev, vnl.HANDLE_MIN_INGRESS, vnl.TCA_EGRESS_REDIR, vnl.TC_ACT_STOLEN, elsewhere)
	}},
	{"ingress redirect", []string{"tc filter on %s (u32, redirects to lan2)"}, func(dev vnl.Link) error {
		return mirred(dev, vnl.HANDLE_MIN_INGRESS, vnl.TCA_INGRESS_REDIR, vnl.TC_ACT_STOLEN, elsewhere)
	}},
	{"mirror and drop", []string{"tc filter on %s (u32, redirects to lan2)"}, func(dev vnl.Link) error {
		return mirred(dev, vnl.HANDLE_MIN_INGRESS, vnl.TCA_EGRESS_MIRROR, vnl.TC_ACT_SHOT, elsewhere)
	}},
	{"shared block", []string{"tc filter on %s (u32, redirects to lan2)"}, func(dev vnl.Link) error {
		const block = 7
		if err := clsact(dev, block); err != nil {
			return err
		}
		to, err := vnl.LinkByName(elsewhere)
		if err != nil {
			return err
		}
		return vnl.FilterAdd(u32(magicBlock, block, redirect(vnl.TCA_EGRESS_REDIR, vnl.TC_ACT_STOLEN, to)))
	}},
	{"IFB that does not hand back", []string{"tc filter on ifb0 (u32, redirects to lan2)"}, func(dev vnl.Link) error {
		ifb, err := throughIFB(dev)
		if err != nil {
			return err
		}
		return mirred(ifb, vnl.HANDLE_MIN_EGRESS, vnl.TCA_EGRESS_REDIR, vnl.TC_ACT_STOLEN, elsewhere)
	}},
	{"nft fwd", []string{"nft fwd rule on %s (table hand, chain in)"}, func(dev vnl.Link) error {
		return nftables(dev, `table netdev hand {
			chain in { type filter hook ingress device "DEV" priority 0; ip ttl 7 fwd to "lan2"; }
		}`)
	}},
	{"nft fwd behind a jump, two devices", []string{"nft fwd rule on %s (table hand, chain deep)"}, func(dev vnl.Link) error {
		return nftables(dev, `table netdev hand {
			chain deep { fwd to "lan2"; }
			chain in { type filter hook ingress devices = { "lo", "DEV" } priority 0; ip ttl 7 jump deep; }
		}`)
	}},
}

// harmless things take no packet past a hook.
var harmless = []obstacle{
	{"queueing discipline", nil, func(dev vnl.Link) error {
		return vnl.QdiscAdd(&vnl.Tbf{
			QdiscAttrs: vnl.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: vnl.MakeHandle(1, 0), Parent: vnl.HANDLE_ROOT},
			Rate:       1 << 30, Limit: 1 << 20, Buffer: 1 << 20,
		})
	}},
	{"filter that classifies", nil, func(dev vnl.Link) error {
		if err := clsact(dev, 0); err != nil {
			return err
		}
		return vnl.FilterAdd(u32(dev.Attrs().Index, vnl.HANDLE_MIN_INGRESS))
	}},
	{"mirror", nil, func(dev vnl.Link) error {
		return mirred(dev, vnl.HANDLE_MIN_INGRESS, vnl.TCA_EGRESS_MIRROR, vnl.TC_ACT_PIPE, elsewhere)
	}},
	{"IFB", nil, func(dev vnl.Link) error {
		_, err := throughIFB(dev)
		return err
	}},
	{"redirect at egress", nil, func(dev vnl.Link) error {
		return mirred(dev, vnl.HANDLE_MIN_EGRESS, vnl.TCA_EGRESS_REDIR, vnl.TC_ACT_STOLEN, elsewhere)
	}},
	{"cls_bpf at egress", nil, func(dev vnl.Link) error { return clsBPF(dev, "cls_out", vnl.HANDLE_MIN_EGRESS) }},
	{"tcx at egress", nil, func(dev vnl.Link) error { return attachTCX(dev, "tcx_out", unix.BPF_TCX_EGRESS) }},
	{"nft at ingress and egress", nil, func(dev vnl.Link) error {
		return nftables(dev, `table netdev hand {
			chain in { type filter hook ingress device "DEV" priority 0; ip ttl 7 dup to "lan2"; }
			chain out { type filter hook egress device "DEV" priority 0; ip ttl 7 fwd to "lan2"; }
		}`)
	}},
}

// younger are obstacles that older kernels than these cannot have.
var younger = map[string][2]int{"tcx": {6, 6}, "tcx at egress": {6, 6}}

// possible tells whether the running kernel can have the obstacle.
func (o obstacle) possible(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var v [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &v[0], &v[1]); err != nil {
		t.Fatal(err)
	}
	least := younger[o.name] // 0.0 for the others
	return slices.Compare(v[:], least[:]) >= 0
}

// on puts an obstacle on a device of a host.
func (o obstacle) on(t *testing.T, h *lab.Host, device string) {
	t.Helper()
	err := h.NS.Do(func() error {
		dev, err := vnl.LinkByName(device)
		if err != nil {
			return err
		}
		return o.put(dev)
	})
	if err != nil {
		t.Fatalf("put %s on %s: %v", o.name, device, err)
	}
}

// magicBlock stands for a block in place of a device: TCM_IFINDEX_MAGIC_BLOCK,
// 0xffffffff in the 32 bits that the message has.
const magicBlock = -1

func clsact(dev vnl.Link, block uint32) error {
	q := &vnl.Clsact{QdiscAttrs: vnl.QdiscAttrs{
		LinkIndex: dev.Attrs().Index, Handle: vnl.MakeHandle(0xffff, 0), Parent: vnl.HANDLE_CLSACT,
	}}
	if block != 0 {
		q.IngressBlock = &block
	}
	return vnl.QdiscAdd(q)
}

// u32 is a filter that all packets match.
func u32(index int, parent uint32, actions ...vnl.Action) *vnl.U32 {
	return &vnl.U32{
		FilterAttrs: vnl.FilterAttrs{LinkIndex: index, Parent: parent, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     vnl.MakeHandle(1, 1),
		Actions:     actions,
	}
}

func redirect(how vnl.MirredAct, then vnl.TcAct, to vnl.Link) vnl.Action {
	return &vnl.MirredAction{ActionAttrs: vnl.ActionAttrs{Action: then}, MirredAction: how, Ifindex: to.Attrs().Index}
}

func mirred(dev vnl.Link, parent uint32, how vnl.MirredAct, then vnl.TcAct, device string) error {
	to, err := vnl.LinkByName(device)
	if err != nil {
		return err
	}
	if err := clsact(dev, 0); err != nil {
		return err
	}
	return vnl.FilterAdd(u32(dev.Attrs().Index, parent, redirect(how, then, to)))
}

// throughIFB takes what comes in by a device through an IFB, as shapers do.
func throughIFB(dev vnl.Link) (vnl.Link, error) {
	ifb := &vnl.Ifb{LinkAttrs: vnl.LinkAttrs{Name: "ifb0", TxQLen: -1}}
	if err := vnl.LinkAdd(ifb); err != nil {
		return nil, err
	}
	if err := vnl.LinkSetUp(ifb); err != nil {
		return nil, err
	}
	return ifb, mirred(dev, vnl.HANDLE_MIN_INGRESS, vnl.TCA_EGRESS_REDIR, vnl.TC_ACT_STOLEN, "ifb0")
}

func clsBPF(dev vnl.Link, name string, parent uint32) error {
	if err := clsact(dev, 0); err != nil {
		return err
	}
	return labtest.WithProgram(unix.BPF_PROG_TYPE_SCHED_CLS, name, 0, func(fd int) error {
		return vnl.FilterAdd(&vnl.BpfFilter{
			FilterAttrs: vnl.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: parent, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:          fd, Name: "file.o:[section]", DirectAction: true,
		})
	})
}

func attachTCX(dev vnl.Link, name string, at uint32) error {
	return labtest.WithProgram(unix.BPF_PROG_TYPE_SCHED_CLS, name, tcxNext, func(fd int) error {
		attr := struct { // of BPF_PROG_ATTACH
			target, program, attachType, flags, replace, relative uint32
			revision                                              uint64
		}{target: uint32(dev.Attrs().Index), program: uint32(fd), attachType: at}
		_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		return err
	})
}

func nftables(dev vnl.Link, ruleset string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(ruleset, "DEV", dev.Attrs().Name))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// setBridgeOption changes an option of a bridge, which the library cannot.
func setBridgeOption(index int, option uint16, value uint8) error {
	request := vnlnl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	info := vnlnl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	request.AddData(info)
	link := vnlnl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	link.AddRtAttr(vnlnl.IFLA_INFO_KIND, []byte("bridge"))
	link.AddRtAttr(vnlnl.IFLA_INFO_DATA, nil).AddRtAttr(int(option), []byte{value})
	request.AddData(link)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
