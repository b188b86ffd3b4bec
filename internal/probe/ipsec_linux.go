package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// policies tells whether packets must be encrypted on their way out.
type policies struct {
	nl       *netlink.Conn // nil: a kernel without IPsec
	known    bool
	encrypts bool
}

func openPolicies() (policies, error) {
	nl, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return policies{}, nil
	}
	if err != nil {
		return policies{}, fmt.Errorf("probe: open xfrm netlink: %w", err)
	}
	return policies{nl: nl}, nil
}

func (p *policies) close() error {
	if p.nl == nil {
		return nil
	}
	return p.nl.Close()
}

// encrypt tells whether there is any policy for packets that leave. Whether it
// means a packet the kernel alone knows.
func (p *policies) encrypt() (bool, error) {
	if p.nl == nil || p.known {
		return p.encrypts, nil
	}
	const (
		newInfo = 0x24 // XFRM_MSG_NEWSPDINFO
		getInfo = 0x25 // XFRM_MSG_GETSPDINFO
		counts  = 1    // XFRMA_SPD_INFO: struct xfrmu_spdinfo
		out     = 4    // its outcnt
	)
	msgs, err := p.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: getInfo, Flags: netlink.Request},
		Data:   make([]byte, 4), // flags
	})
	if err != nil {
		return false, fmt.Errorf("look for IPsec policies: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Type != newInfo {
			continue
		}
		d, err := attributes(m.Data, 4)
		if err != nil {
			return false, fmt.Errorf("look for IPsec policies: %w", err)
		}
		for d.Next() {
			if b := d.Bytes(); d.Type() == counts && len(b) >= out+4 {
				p.known, p.encrypts = true, binary.NativeEndian.Uint32(b[out:]) > 0
			}
		}
	}
	if !p.known {
		return false, errors.New("look for IPsec policies: no answer that can be read")
	}
	return p.encrypts, nil
}
