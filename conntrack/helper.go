package conntrack

import (
	"bytes"
	"fmt"
	"slices"
)

// maxText is the most bytes that a name or a helper's own data may have. The
// kernel's longest is a security context of 4 KiB.
const maxText = 16 << 10

// Members of CTA_HELP, enum ctattr_help.
const (
	attrHelpName attrType = 1 // CTA_HELP_NAME
	attrHelpInfo attrType = 2 // CTA_HELP_INFO
)

// Members of CTA_SECCTX, enum ctattr_secctx.
const attrSecCtxName attrType = 1 // CTA_SECCTX_NAME

// parseHelp reads CTA_HELP.
func (f *Flow) parseHelp(b []byte) error {
	last := f.Helper
	f.Helper = ""
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_HELP")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrHelpName:
			f.Helper, err = parseTextAgain(v, "CTA_HELP_NAME", last)
		case attrHelpInfo:
			if len(v) > maxText {
				return lengthError("CTA_HELP_INFO", len(v), maxText)
			}
			f.HelpInfo = slices.Clone(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// appendHelp appends CTA_HELP.
func (f *Flow) appendHelp(b []byte) []byte {
	b, nest := beginNest(b, attrHelp)
	b = appendString(b, attrHelpName, f.Helper)
	if f.HelpInfo != nil {
		b = appendAttr(b, attrHelpInfo, f.HelpInfo)
	}
	return endNest(b, nest)
}

// parseSecCtx reads CTA_SECCTX.
func (f *Flow) parseSecCtx(b []byte) error {
	last := f.SecCtx
	f.SecCtx = ""
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_SECCTX")
		if err != nil {
			return err
		}
		b = rest
		if t == attrSecCtxName {
			if f.SecCtx, err = parseTextAgain(v, "CTA_SECCTX_NAME", last); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendSecCtx appends CTA_SECCTX.
func (f *Flow) appendSecCtx(b []byte) []byte {
	b, nest := beginNest(b, attrSecCtx)
	b = appendString(b, attrSecCtxName, f.SecCtx)
	return endNest(b, nest)
}

// parseText reads the string attribute called name.
func parseText(v []byte, name string) (string, error) {
	if len(v) > maxText {
		return "", lengthError(name, len(v), maxText)
	}
	return parseString(v), nil
}

// parseTextAgain is parseText, but returns old where that is the text.
func parseTextAgain(v []byte, name, old string) (string, error) {
	if string(bytes.TrimSuffix(v, []byte{0})) == old {
		return old, nil
	}
	return parseText(v, name)
}

// validateText refuses text that would not fit into an attribute.
func (f *Flow) validateText() error {
	for _, n := range [...]int{len(f.Helper), len(f.HelpInfo), len(f.SecCtx)} {
		if n > maxText {
			return fmt.Errorf("text of %d bytes, at most %d fit", n, maxText)
		}
	}
	return nil
}
