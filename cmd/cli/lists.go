package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// pageSize is the most that the API answers at once.
const pageSize = 200

// page is how much of a list is asked for.
type page struct {
	limit  int
	cursor string
}

func pageFlags(c *cobra.Command) *page {
	p := &page{}
	c.Flags().IntVar(&p.limit, "limit", 50, "most `items` to show, 0 for all")
	c.Flags().StringVar(&p.cursor, "cursor", "", "`text` that an earlier list ended with, to go on there")
	return p
}

// collect asks for pages until there are as many items as were asked for.
func collect[T any](p *page, ask func(client.Page) (wire.List[T], error)) (wire.List[T], error) {
	all := wire.List[T]{Items: []T{}}
	if p.limit < 0 {
		return all, usage("--limit is 0 or more", "")
	}
	for cursor := p.cursor; ; {
		q := client.Page{Limit: pageSize, Cursor: cursor}
		if p.limit > 0 {
			q.Limit = min(pageSize, p.limit-len(all.Items))
		}
		got, err := ask(q)
		if err != nil {
			return all, err
		}
		all.Items = append(all.Items, got.Items...)
		all.NextCursor, cursor = got.NextCursor, got.NextCursor
		if cursor == "" || p.limit > 0 && len(all.Items) >= p.limit {
			return all, nil
		}
	}
}

// listed prints a list, and says where it goes on.
func (a *app) listed(document any, next string, g grid) error {
	if err := a.out.list(document, g); err != nil {
		return err
	}
	if a.out.format != formatJSON {
		a.tellMore(next)
	}
	return nil
}

// tellMore says where a list goes on.
func (a *app) tellMore(next string) {
	if next != "" {
		fmt.Fprintf(a.env.Stderr, "\nThere are more: --limit 0 shows all, --cursor %s goes on.\n", next)
	}
}
