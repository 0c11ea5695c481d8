package index

import (
	"slices"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

// Effective lists the permissions of an organization's catalog, sorted, that a key with
// these has today. It is nil of an organization that is not known.
func (x *Index) Effective(id events.OrgID, p events.Permissions) []string {
	o := x.directory.Load().get(id)
	if o == nil {
		return nil
	}
	listed := make([]permission.Grant, len(p.Grants))
	for i, s := range p.Grants {
		listed[i] = permission.Grant(s)
	}
	names := []string{}
	for _, entry := range o.view.Load().catalog.permissions {
		if permission.Allowed(permission.Level(p.Level), listed, entry.name, entry.access) {
			names = append(names, string(entry.name))
		}
	}
	slices.Sort(names)
	return names
}
