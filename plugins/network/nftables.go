package network

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/nft"
	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// nftKind is one kind of object of nftables: how it is listed, what of it is not
// a setting, and what its name is.
type nftKind struct {
	get, add int
	name     string
	// drop are attributes that the kernel gives out and does not take.
	drop []uint32
	// table is the attribute with the name of its table, own that with its own.
	table, own uint32
}

// Attributes that x/sys lacks (linux/netfilter/nf_tables.h).
const (
	nftaFlowtableUse, nftaFlowtableHandle, nftaFlowtablePad = 4, 5, 6
	nftaObjectUse, nftaObjectHandle, nftaObjectPad          = 5, 6, 7
	nftaTableOwner                                          = 7
	nftaSetHandle                                           = 16
	nftaSetType, nftaSetCount                               = 19, 20
	nftaChainFlags                                          = 10
	nftChainBinding                                         = 0x4
	nftTableOwner                                           = 0x2
	nftSetAnonymous                                         = 0x1
	nftMsgNewObject, nftMsgGetObject                        = 18, 19
	nftMsgNewFlowtable, nftMsgGetFlowtable                  = 22, 23
	nfgenSize                                               = 4
	nftaRuleCompat, nftaExprName                            = 5, 1
)

// nftKinds are in the order in which they are made: what is referred to before
// what refers to it.
var nftKinds = []*nftKind{
	{get: unix.NFT_MSG_GETTABLE, add: unix.NFT_MSG_NEWTABLE, name: "table",
		drop: []uint32{unix.NFTA_TABLE_USE, 4, 5, nftaTableOwner}, own: unix.NFTA_TABLE_NAME},
	{get: unix.NFT_MSG_GETCHAIN, add: unix.NFT_MSG_NEWCHAIN, name: "chain",
		drop:  []uint32{unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE, 9},
		table: unix.NFTA_CHAIN_TABLE, own: unix.NFTA_CHAIN_NAME},
	{get: nftMsgGetObject, add: nftMsgNewObject, name: "object",
		drop: []uint32{nftaObjectUse, nftaObjectHandle, nftaObjectPad}, table: 1, own: 2},
	{get: nftMsgGetFlowtable, add: nftMsgNewFlowtable, name: "flow table",
		drop: []uint32{nftaFlowtableUse, nftaFlowtableHandle, nftaFlowtablePad}, table: 1, own: 2},
	{get: unix.NFT_MSG_GETSET, add: unix.NFT_MSG_NEWSET, name: "set",
		drop: []uint32{14, nftaSetHandle, nftaSetType, nftaSetCount}, table: unix.NFTA_SET_TABLE, own: unix.NFTA_SET_NAME},
	{get: unix.NFT_MSG_GETSETELEM, add: unix.NFT_MSG_NEWSETELEM, name: "elements of set",
		table: unix.NFTA_SET_ELEM_LIST_TABLE, own: unix.NFTA_SET_ELEM_LIST_SET},
	{get: unix.NFT_MSG_GETRULE, add: unix.NFT_MSG_NEWRULE, name: "rule of chain",
		drop:  []uint32{unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION, 8},
		table: unix.NFTA_RULE_TABLE, own: unix.NFTA_RULE_CHAIN},
}

// ruleset is everything of nftables in a namespace.
type ruleset struct {
	objects []*networkpb.Nftables
	// refusals are what cannot be carried.
	refusals []string
}

// readRuleset reads all of it, as it is between two transactions: it takes several
// lists, and others, the plugin for sockets among them, make tables meanwhile.
func readRuleset(c *netlink.Conn) (*ruleset, error) {
	for range maxDumps {
		before, err := generation(c)
		if err != nil {
			if absent(err) {
				return &ruleset{}, nil
			}
			return nil, err
		}
		out, err := readLists(c)
		if err != nil {
			return nil, err
		}
		if after, err := generation(c); err != nil || after == before {
			return out, err
		}
	}
	return nil, fmt.Errorf("nftables change while they are read: %w", sdk.ErrChanged)
}

// generation is a number that every transaction changes.
func generation(c *netlink.Conn) (uint32, error) {
	const attrID = 1 // NFTA_GEN_ID
	list, err := ask(c, uint16(nft.Type(unix.NFT_MSG_GETGEN)), []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0})
	if err != nil {
		return 0, fmt.Errorf("generation of nftables: %w", err)
	}
	return numberBE(list, attrID), nil
}

// readLists reads the lists of all kinds of objects. Tables that belong to a socket
// are left out: they go with it.
func readLists(c *netlink.Conn) (*ruleset, error) {
	out := &ruleset{}
	owned := map[string]bool{}
	key := func(o *networkpb.Nftables, attr uint32) string {
		return fmt.Sprint(o.GetFamily(), " ", findString(o.GetAttributes(), attr))
	}
	var sets []*networkpb.Nftables
	for _, k := range nftKinds {
		var found []*networkpb.Nftables
		var err error
		if k.get == unix.NFT_MSG_GETSETELEM {
			found, err = readElements(c, k, sets)
		} else {
			found, err = k.read(c, unix.NFPROTO_UNSPEC, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("list each %s of nftables: %w", k.name, err)
		}
		for _, o := range found {
			if k.table == 0 && numberBE(o.GetAttributes(), unix.NFTA_TABLE_FLAGS)&nftTableOwner != 0 {
				owned[key(o, k.own)] = true
			}
			if owned[key(o, max(k.table, 1))] {
				continue
			}
			if text := k.refuse(o); text != "" {
				out.refusals = append(out.refusals, text)
			}
			o.Attributes = without(o.GetAttributes(), k.drop...)
			if k.get == unix.NFT_MSG_GETSET {
				sets = append(sets, o)
			}
			out.objects = append(out.objects, o)
		}
	}
	return out, nil
}

// read lists the objects of a kind.
func (k *nftKind) read(c *netlink.Conn, family uint32, which []*networkpb.Attribute) ([]*networkpb.Nftables, error) {
	data, err := encode(which)
	if err != nil {
		return nil, err
	}
	messages, err := list(c, uint16(nft.Type(k.get)), append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...))
	if err != nil {
		return nil, err
	}
	var out []*networkpb.Nftables
	for _, m := range messages {
		if len(m.Data) < nfgenSize {
			return nil, fmt.Errorf("message of %d bytes: %w", len(m.Data), sdk.ErrCorrupt)
		}
		o := &networkpb.Nftables{Type: uint32(k.add), Family: uint32(m.Data[0])}
		if o.Attributes, err = attributes(m.Data[nfgenSize:]); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// readElements lists the elements of sets, which the kernel gives by the set.
func readElements(c *netlink.Conn, k *nftKind, sets []*networkpb.Nftables) ([]*networkpb.Nftables, error) {
	var out []*networkpb.Nftables
	for _, s := range sets {
		found, err := k.read(c, s.GetFamily(), []*networkpb.Attribute{
			{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Value: find(s.GetAttributes(), unix.NFTA_SET_TABLE)},
			{Type: unix.NFTA_SET_ELEM_LIST_SET, Value: find(s.GetAttributes(), unix.NFTA_SET_NAME)},
		})
		if err != nil {
			return nil, err
		}
		for _, o := range found {
			if len(find(o.GetAttributes(), unix.NFTA_SET_ELEM_LIST_ELEMENTS)) > 0 {
				out = append(out, o)
			}
		}
	}
	return out, nil
}

// refuse tells why an object cannot be carried; empty if it can.
func (k *nftKind) refuse(o *networkpb.Nftables) string {
	what := "nftables: " + describeObject(o)
	switch k.get {
	case unix.NFT_MSG_GETCHAIN:
		if numberBE(o.GetAttributes(), nftaChainFlags)&nftChainBinding != 0 {
			return what + ": is a part of a rule"
		}
	case unix.NFT_MSG_GETRULE:
		list, err := findNested(o.GetAttributes(), unix.NFTA_RULE_EXPRESSIONS)
		if err != nil {
			return what + ": " + err.Error()
		}
		for _, e := range list {
			inside, err := attributes(e.GetValue())
			if err != nil {
				return what + ": " + err.Error()
			}
			if name := findString(inside, nftaExprName); name == "match" || name == "target" {
				return what + ": a rule uses an extension of iptables"
			}
		}
	}
	return ""
}

// describeObject names an object for a message.
func describeObject(o *networkpb.Nftables) string {
	for _, k := range nftKinds {
		if uint32(k.add) == o.GetType() {
			return k.name + " " + findString(o.GetAttributes(), k.own)
		}
	}
	return "object"
}

// numberBE reads a number in network order, as nftables has them.
func numberBE(list []*networkpb.Attribute, typ uint32) uint32 {
	v := find(list, typ)
	if len(v) < 4 {
		return 0
	}
	return networkOrder.Uint32(v)
}

// restoreRuleset makes all of it, in one transaction.
func restoreRuleset(c *netlink.Conn, objects []*networkpb.Nftables) error {
	if len(objects) == 0 {
		return nil
	}
	var batch []netlink.Message
	for i, o := range objects {
		list := o.GetAttributes()
		if o.GetType() == unix.NFT_MSG_NEWSET {
			list = append(without(list, unix.NFTA_SET_ID), &networkpb.Attribute{
				Type: unix.NFTA_SET_ID, Value: networkOrder.AppendUint32(nil, uint32(i+1)),
			})
		}
		flags := netlink.Create | netlink.Acknowledge
		if o.GetType() == unix.NFT_MSG_NEWRULE {
			flags |= netlink.Append
		}
		m, err := message(uint16(nft.Type(int(o.GetType()))), flags,
			[]byte{byte(o.GetFamily()), unix.NFNETLINK_V0, 0, 0}, list)
		if err != nil {
			return err
		}
		batch = append(batch, m)
	}
	if refused, err := nft.Commit(c, batch); err != nil {
		return fmt.Errorf("nftables: make %s: %w", describeObject(objects[refused]), err)
	}
	return nil
}
