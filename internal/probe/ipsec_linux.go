package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// policies tells whether packets must be encrypted on their way out.
type policies struct {
	nl       *rtnl.Conn // nil: a kernel without IPsec
	known    bool
	encrypts bool
}

func openPolicies() (policies, error) {
	nl, err := rtnl.Dial(unix.NETLINK_XFRM)
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
		getInfo = 0x25 // XFRM_MSG_GETSPDINFO
		counts  = 1    // XFRMA_SPD_INFO: struct xfrmu_spdinfo
		out     = 4    // its outcnt
	)
	flags := make([]byte, 4) // of the request, and of the answer
	data, err := p.nl.Ask(getInfo, 0, flags)
	if err == nil {
		_, err = rtnl.Parse(data, len(flags), func(ad *rtnl.Attr) {
			if b := ad.Bytes(); ad.Type() == counts && len(b) >= out+4 {
				p.known, p.encrypts = true, binary.NativeEndian.Uint32(b[out:]) > 0
			}
		})
	}
	if err == nil && !p.known {
		err = errors.New("no answer that can be read")
	}
	if err != nil {
		return false, fmt.Errorf("look for IPsec policies: %w", err)
	}
	return p.encrypts, nil
}
