package gateways

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The program is not to be had here. What stands in its place reads its
// configuration by Envoy's own definitions, and does what its documentation says of
// the filter: it shows what keyledger makes of what Envoy sends, and Envoy of the
// answer, not how Envoy reads a request.
type envoyStandIn struct {
	manager  *hcmv3.HttpConnectionManager
	host     *routev3.VirtualHost
	filter   *extauthzv3.ExtAuthz
	client   authv3.AuthorizationClient
	upstream *url.URL
}

// envoy stands in for Envoy before an application, asking at an address or
// unix:PATH over gRPC.
func envoy(t testing.TB, ask, application string) *gateway {
	t.Helper()
	at := put{"port_value: 8082", "port_value: " + portOf(ask)}
	if path, ok := strings.CutPrefix(ask, "unix:"); ok {
		at = put{"socket_address: {address: 127.0.0.1, port_value: 8082}", "pipe: {path: " + path + "}"}
	}
	puts := []put{{"port_value: 3000", "port_value: " + portOf(application)}, at}
	text, err := os.ReadFile(filepath.Join(configure(t, "envoy", puts...), "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	text, err = json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	var conf bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(text, &conf); err != nil {
		t.Fatal(err)
	}
	if err := conf.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	e := &envoyStandIn{manager: new(hcmv3.HttpConnectionManager), filter: new(extauthzv3.ExtAuthz)}
	unpack(t, conf.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), e.manager)
	e.host = e.manager.GetRouteConfig().GetVirtualHosts()[0]
	unpack(t, e.manager.GetHttpFilters()[0].GetTypedConfig(), e.filter)
	clusters := make(map[string]string)
	for _, c := range conf.GetStaticResources().GetClusters() {
		clusters[c.GetName()] = endpointOf(c)
	}
	e.upstream = &url.URL{Scheme: "http", Host: clusters["application"]}
	conn, err := grpc.NewClient(clusters[e.filter.GetGrpcService().GetEnvoyGrpc().GetClusterName()], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	e.client = authv3.NewAuthorizationClient(conn)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return &gateway{address: server.Listener.Addr().String(), stale: 503, down: []int{503}, standIn: true}
}

// portOf is the port of an address.
func portOf(address string) string {
	return address[strings.LastIndexByte(address, ':')+1:]
}

// validated is a message that Envoy's definitions say more of than its fields.
type validated interface {
	ValidateAll() error
	proto.Message
}

// unpack reads a part of the configuration that lies in an envelope.
func unpack(t testing.TB, from *anypb.Any, into validated) {
	t.Helper()
	if err := from.UnmarshalTo(into); err != nil {
		t.Fatal(err)
	}
	if err := into.ValidateAll(); err != nil {
		t.Fatal(err)
	}
}

// endpointOf is where a cluster's requests go, as gRPC dials it.
func endpointOf(c *clusterv3.Cluster) string {
	endpoint := c.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress()
	if pipe := endpoint.GetPipe(); pipe != nil {
		return "unix:" + pipe.GetPath()
	}
	a := endpoint.GetSocketAddress()
	return net.JoinHostPort(a.GetAddress(), strconv.Itoa(int(a.GetPortValue())))
}

// ServeHTTP is a request from its beginning to its end.
func (e *envoyStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Host, e.host.GetDomains()[0]) {
		http.NotFound(w, r)
		return
	}
	drop := e.manager.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_DROP_HEADER
	for name := range r.Header {
		if drop && strings.Contains(name, "_") {
			delete(r.Header, name)
		}
	}
	question, err := e.question(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), e.filter.GetGrpcService().GetTimeout().AsDuration())
	defer cancel()
	answer, err := e.client.Check(ctx, question)
	switch {
	case err != nil && e.filter.GetFailureModeAllow():
	case err != nil:
		w.WriteHeader(int(e.filter.GetStatusOnError().GetCode()))
		return
	case codes.Code(answer.GetStatus().GetCode()) != codes.OK:
		denied := answer.GetDeniedResponse()
		change(w.Header(), denied.GetHeaders())
		w.WriteHeader(int(denied.GetStatus().GetCode()))
		_, _ = w.Write([]byte(denied.GetBody()))
		return
	}
	ok := answer.GetOkResponse()
	for _, name := range append(ok.GetHeadersToRemove(), e.host.GetRequestHeadersToRemove()...) {
		r.Header.Del(name)
	}
	change(r.Header, ok.GetHeaders())
	(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(e.upstream)
		p.Out.Host = p.In.Host
		p.SetXForwarded()
	}}).ServeHTTP(w, r)
}

// change sets or appends headers.
func change(h http.Header, options []*corev3.HeaderValueOption) {
	for _, o := range options {
		value := o.GetHeader().GetValue()
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		if o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			h.Set(o.GetHeader().GetKey(), value)
		} else {
			h.Add(o.GetHeader().GetKey(), value)
		}
	}
}

// question is what the filter sends.
func (e *envoyStandIn) question(r *http.Request) (*authv3.CheckRequest, error) {
	headers := map[string]string{":authority": r.Host, ":method": r.Method, ":path": r.RequestURI, ":scheme": "http"}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	for name := range headers {
		if !e.sends(name) {
			delete(headers, name)
		}
	}
	host, port, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	client := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(number)},
	}}}
	q := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: client},
		Request: &authv3.AttributeContext_Request{Time: timestamppb.Now(), Http: &authv3.AttributeContext_HttpRequest{
			Id: r.Header.Get(caseHeader), Method: r.Method, Headers: headers, Path: r.RequestURI, Host: r.Host, Scheme: "http", Protocol: "HTTP/1.1", Size: r.ContentLength,
		}},
	}}
	for _, route := range e.host.GetRoutes() {
		if !strings.HasPrefix(r.URL.Path, route.GetMatch().GetPrefix()) {
			continue
		}
		if own := route.GetTypedPerFilterConfig()["envoy.filters.http.ext_authz"]; own != nil {
			var per extauthzv3.ExtAuthzPerRoute
			if err := own.UnmarshalTo(&per); err != nil {
				return nil, err
			}
			if err := per.ValidateAll(); err != nil {
				return nil, err
			}
			q.Attributes.ContextExtensions = per.GetCheckSettings().GetContextExtensions()
		}
		break
	}
	return q, nil
}

// sends reports whether the filter is told to send a header.
func (e *envoyStandIn) sends(name string) bool {
	for _, p := range e.filter.GetAllowedHeaders().GetPatterns() {
		if exact := p.GetExact(); exact != "" && exact == name || p.GetPrefix() != "" && strings.HasPrefix(name, p.GetPrefix()) {
			return true
		}
	}
	return strings.HasPrefix(name, ":")
}
