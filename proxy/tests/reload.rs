//! SIGHUP: a new config touches only what it changed, and costs nobody a request.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::{Client, Origin, Proxy, beside, config, echo_origin};

on_both_drivers! {
    a_connection_sees_the_new_routes,
    what_stays_keeps_its_connections,
    an_endpoint_that_is_gone_finishes_what_it_has,
    a_request_sees_one_plan_to_its_end,
    listeners_come_and_go,
    a_listener_that_moves_keeps_its_connections,
    a_listener_widens_and_narrows_where_it_is,
    a_listener_that_is_called_otherwise_loses_nobody,
    a_listener_that_speaks_otherwise_loses_nobody,
    tunnels_outlive_many_configs,
    what_is_wrong_changes_nothing,
    what_the_machine_refuses_changes_nothing,
    what_is_read_at_start_only_is_said_so,
    no_request_fails_while_the_config_changes,
}

/// An origin that answers with its name, on connections that it counts.
fn named(name: &'static str) -> SocketAddr {
    Origin::bind().serve(move |client| {
        while client.message().is_some() {
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

/// Listeners, endpoints of the one service, and routes, each as a YAML flow.
fn setup(listeners: &str, endpoints: &[SocketAddr], routes: &str) -> String {
    let endpoints = endpoints.iter().map(|address| format!("{{ address: \"{address}\" }}"));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    format!(
        r#"version: 1
workers: 2
access_log: none
node: {{ id: test-node }}
probes: {{ address: "127.0.0.1:0" }}
shutdown: {{ grace: 100ms, deadline: 5s }}
listeners: [{listeners}]
services: [{{ name: origin, endpoints: [{endpoints}], connect_timeout: 10s }}]
routes: [{routes}]
"#
    )
}

const WEB: &str = r#"{ name: web, address: "127.0.0.1:0", http: {} }"#;
const ALL: &str = "{ name: all, listeners: [web], backends: [{ service: origin }] }";

fn a_connection_sees_the_new_routes(io: &str) {
    let before = config(echo_origin(), "", "", "");
    let proxy = Proxy::start(io, &before);
    let mut client = proxy.connect();
    assert_eq!(client.get("/a").status(), 200);
    let only = |path: &str| {
        let matches = format!("name: all, matches: [{{ path: {{ exact: {path} }} }}]");
        before.replace("name: all", &matches)
    };
    proxy.reload(&only("/b"));
    assert_eq!(client.get("/a").cause(), "no_route");
    assert_eq!(client.get("/b").status(), 200);
    proxy.reload(&only("/a"));
    assert_eq!(client.get("/a").status(), 200);
    proxy.metric_becomes(&["ringside_config_generation"], "3");
    proxy.metric_becomes(&["ringside_connections_total", "web"], "1");
}

fn what_stays_keeps_its_connections(io: &str) {
    let stays = named("stays");
    let proxy = Proxy::start(io, &setup(WEB, &[stays], ALL).replace("workers: 2", "workers: 1"));
    let mut client = proxy.connect();
    client.get("/");
    for n in 0..3 {
        let route = format!(
            "{{ name: more-{n}, listeners: [web], hosts: [more], backends: [{{ service: origin }}] }}"
        );
        let text = setup(WEB, &[stays], &format!("{ALL}, {route}"));
        proxy.reload(&text.replace("workers: 2", "workers: 1"));
        assert_eq!(client.get("/").body, b"stays");
    }
    // Also where the service itself is another one.
    let more = setup(WEB, &[stays, named("new")], ALL).replace("workers: 2", "workers: 1");
    proxy.reload(&more);
    let bodies: Vec<_> = (0..10).map(|_| client.get("/").body).collect();
    assert!(bodies.contains(&b"stays".to_vec()) && bodies.contains(&b"new".to_vec()));
    proxy.metric_becomes(&["ringside_upstream_connections_total", "origin"], "2");
}

fn an_endpoint_that_is_gone_finishes_what_it_has(io: &str) {
    let (old, new) = (Origin::bind(), named("new"));
    let proxy = Proxy::start(io, &setup(WEB, &[old.address], ALL));
    let mut client = proxy.connect();
    client.send("GET /slow HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut busy = old.accept();
    busy.message().unwrap();

    let mut other = proxy.connect();
    other.send("GET /idle HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut idle = old.accept();
    idle.message().unwrap();
    idle.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(other.message().unwrap().status(), 200);

    proxy.reload(&setup(WEB, &[new], ALL));
    assert!(idle.ends_orderly(), "an idle connection to an endpoint that is gone is closed");
    assert_eq!(other.get("/").body, b"new");
    busy.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold");
    assert_eq!(client.message().unwrap().body, b"old");
    assert!(busy.ends_orderly(), "and a busy one when it is done");
    assert_eq!(client.get("/").body, b"new");
}

fn a_request_sees_one_plan_to_its_end(io: &str) {
    let origin = Origin::bind();
    let before = config(origin.address, "", "", "");
    let proxy = Proxy::start(io, &before);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    // Its route goes, and its service.
    let none = "services: []\nroutes: []\nx-rest:";
    proxy.reload(&before.replace("services:", none).replace("\nroutes:\n", "\n"));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(client.message().unwrap().body, b"ok");
    assert_eq!(client.get("/").cause(), "no_route");
    proxy.metric_becomes(&["ringside_requests_total", r#"route="all""#, r#"code="200""#], "1");
}

/// Where it says that a listener listens, after a reload.
fn opened(proxy: &Proxy, name: &str) -> SocketAddr {
    let fact = proxy.says(&format!("listener {name}: "));
    fact.rsplit(' ').next().unwrap().parse().expect("an address")
}

fn listeners_come_and_go(io: &str) {
    let origin = Origin::bind();
    let two = format!(r#"{WEB}, {{ name: extra, address: "127.0.0.1:0", http: {{}} }}"#);
    let both = "{ name: all, listeners: [web, extra], backends: [{ service: origin }] }";
    let endpoints = [origin.address];
    let proxy = Proxy::start(io, &setup(WEB, &endpoints, ALL));
    proxy.rewrite(&setup(&two, &endpoints, both));
    proxy.signal("HUP");
    let extra = opened(&proxy, "extra");
    proxy.says("is live on 2 of 2 workers");

    let ask = |client: &mut Client| {
        client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        let mut server = origin.accept();
        server.message().unwrap();
        server
    };
    let answer = |server: &mut Client| {
        server.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    };
    let (mut idle, mut busy) = (Client::connect(extra), Client::connect(extra));
    let mut server = ask(&mut busy);
    let mut idle_server = ask(&mut idle);
    answer(&mut idle_server);
    assert_eq!(idle.message().unwrap().status(), 200);

    proxy.reload(&setup(WEB, &endpoints, ALL));
    assert!(idle.ends_orderly(), "who rests on a listener that is gone is sent away");
    answer(&mut server);
    let last = busy.message().unwrap();
    assert_eq!((last.status(), last.header("connection")), (200, Some("close")));
    assert!(busy.ends_orderly());
    let closed = ["ringside_connections_closed_total", "extra", "listener_removed"];
    proxy.metric_becomes(&closed, "1");
    assert!(std::net::TcpStream::connect(extra).is_err(), "nobody listens there");
    proxy.metric_becomes(&["ringside_connections_active", "extra"], "0");
    // It may come back.
    proxy.rewrite(&setup(&two, &endpoints, both));
    proxy.signal("HUP");
    let mut again = Client::connect(opened(&proxy, "extra"));
    let mut server = ask(&mut again);
    answer(&mut server);
    assert_eq!(again.message().unwrap().status(), 200);
}

fn a_listener_that_moves_keeps_its_connections(io: &str) {
    let origin = echo_origin();
    let proxy = Proxy::start(io, &setup(WEB, &[origin], ALL));
    let mut client = proxy.connect();
    client.get("/");
    proxy.rewrite(&setup(&WEB.replace("127.0.0.1", "127.0.0.2"), &[origin], ALL));
    proxy.signal("HUP");
    let moved = opened(&proxy, "web");
    assert_eq!(moved.ip().to_string(), "127.0.0.2");
    proxy.says("is live on 2 of 2 workers");
    let response = client.get("/still");
    assert_eq!((response.status(), response.header("connection")), (200, None));
    assert_eq!(Client::connect(moved).get("/").status(), 200);
}

fn a_listener_widens_and_narrows_where_it_is(io: &str) {
    let origin = echo_origin();
    let proxy = Proxy::start(io, &setup(WEB, &[origin], ALL));
    let port = proxy.address("web").port();
    let at = |address: &str| setup(&WEB.replace("127.0.0.1:0", address), &[origin], ALL);
    let mut client = proxy.connect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Somebody connects all the time.
        let connecting = scope.spawn(|| {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(Client::connect(([127, 0, 0, 1], port).into()).get("/").status(), 200);
                served += 1;
            }
            served
        });
        // What the kernel chose is written down: nothing has to be opened.
        proxy.reload(&at(&format!("127.0.0.1:{port}")));
        for ip in ["0.0.0.0", "[::]", "127.0.0.1", "[::]", "0.0.0.0", "127.0.0.1"] {
            let address = format!("{ip}:{port}");
            proxy.rewrite(&at(&address));
            proxy.signal("HUP");
            assert_eq!(opened(&proxy, "web").to_string(), address);
            proxy.says("is live on 2 of 2 workers");
            assert_eq!(client.get("/").status(), 200, "{address}");
        }
        // And it may be called otherwise, by the address that it did not begin with.
        let renamed = at(&format!("127.0.0.1:{port}")).replace("name: web", "name: front");
        proxy.reload(&renamed.replace("[web]", "[front]"));
        assert_eq!(client.get("/").status(), 200);
        proxy.metric_becomes(&["ringside_connections_active", "web"], "0");
        stop.store(true, Ordering::Relaxed);
        assert!(connecting.join().unwrap() > 0);
    });
}

fn a_listener_that_is_called_otherwise_loses_nobody(io: &str) {
    let origin = Origin::bind();
    let free = Origin::bind().address; // closed again, so that the port is free
    let named = |name: &str| {
        let listener = format!(r#"{{ name: {name}, address: "{free}", http: {{}} }}"#);
        let setup = setup(&listener, &[origin.address], &ALL.replace("web", name));
        setup.replace("workers: 2", "workers: 1")
    };
    let proxy = Proxy::start(io, &named("web"));
    let (mut client, mut idle, mut socket) = (proxy.connect(), proxy.connect(), proxy.connect());
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    idle.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut idles = origin.accept();
    idles.message().unwrap();
    idles.send(ok);
    assert_eq!(idle.message().unwrap().body, b"ok");
    socket.send(
        "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
    );
    // It came on the connection that the first one left.
    let mut tunnel = idles;
    tunnel.message().unwrap();
    tunnel.send(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    assert_eq!(socket.message().unwrap().status(), 101);
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    proxy.reload(&named("front"));
    let mut other = Client::connect(free);
    other.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut second = origin.accept();
    second.message().unwrap();
    // All of them are the new one's, and stay.
    proxy.metric_becomes(&["ringside_connections_active", "front"], "4");
    proxy.metric_becomes(&["ringside_connections_active", "web"], "0");
    for (client, server) in [(&mut client, &mut server), (&mut other, &mut second)] {
        server.send(ok);
        let reply = client.message().unwrap();
        assert_eq!((&*reply.body, reply.header("connection")), (&b"ok"[..], None));
    }
    idle.send("GET /again HTTP/1.1\r\nhost: web\r\n\r\n");
    // Either of the two is free for it, and answers.
    let mut answering = [server, second].into_iter().map(|mut server| {
        beside(move || {
            if server.message().is_some() {
                server.send(ok);
            }
        })
    });
    let _both = [answering.next(), answering.next()];
    let reply = idle.message().unwrap();
    assert_eq!((&*reply.body, reply.header("connection")), (&b"ok"[..], None));
    tunnel.send("still");
    assert_eq!(socket.exactly(5), b"still");
    proxy.metric_becomes(&["ringside_connections_total", "front"], "1");
    let closed = proxy.metrics();
    assert!(!closed.contains("listener_removed"), "{closed}");
}

fn a_listener_that_speaks_otherwise_loses_nobody(io: &str) {
    let origin = Origin::bind();
    let free = Origin::bind().address; // closed again, so that the port is free
    let web = format!(r#"{{ name: web, address: "{free}", http: {{}} }}"#);
    let one_worker = |listener: &str, routes: &str| {
        setup(listener, &[origin.address], routes).replace("workers: 2", "workers: 1")
    };
    let http = one_worker(&web, ALL);
    let tcp = one_worker(&web.replace("http: {}", "tcp: { service: origin }"), "");
    let proxy = Proxy::start(io, &http);
    let (mut answered, mut half) = (proxy.connect(), proxy.connect());
    answered.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    half.send("GET /half HTTP/1.1\r\nhost: web\r\n");
    proxy.metric_becomes(&["ringside_connections_active", "web"], "2");
    proxy.reload(&tcp);
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let reply = answered.message().unwrap();
    assert_eq!((&*reply.body, reply.header("connection")), (&b"ok"[..], Some("close")));
    half.send("\r\n");
    assert!(server.message().unwrap().head.contains(" /half "));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(half.message().unwrap().body, b"ok");
    // And what connects now are bytes.
    let mut bytes = Client::connect(free);
    bytes.send("hello");
    let mut other = origin.accept();
    assert_eq!(other.exactly(5), b"hello");
    proxy.reload(&http);
    other.send("still");
    assert_eq!(bytes.exactly(5), b"still");
}

fn tunnels_outlive_many_configs(io: &str) {
    let origin = Origin::bind();
    let before = setup(WEB, &[origin.address], ALL);
    let proxy = Proxy::start(io, &before);
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
    );
    let mut server = origin.accept();
    server.message().unwrap();
    server.send(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    assert_eq!(client.message().unwrap().status(), 101);
    for n in 0..10 {
        let route = format!(
            "{{ name: r{n}, listeners: [web], hosts: [h{n}], backends: [{{ service: origin }}] }}"
        );
        proxy.reload(&setup(WEB, &[origin.address], &format!("{ALL}, {route}")));
        client.send("ping");
        assert_eq!(server.exactly(4), b"ping");
        server.send("pong");
        assert_eq!(client.exactly(4), b"pong");
    }
}

fn what_is_wrong_changes_nothing(io: &str) {
    let before = config(echo_origin(), "", "", "");
    let proxy = Proxy::start(io, &before);
    proxy.signal("HUP");
    proxy.says("reload: nothing has changed");
    proxy.rewrite(&before.replace("service: origin", "service: orign"));
    proxy.signal("HUP");
    proxy.says("reload: the config is invalid, the old one stays");
    proxy.says("did you mean `origin`?");
    proxy.rewrite(&format!("# other words, the same content\n{before}"));
    proxy.signal("HUP");
    proxy.says("reload: nothing has changed");
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.metric_becomes(&["ringside_config_generation"], "1");
}

fn what_the_machine_refuses_changes_nothing(io: &str) {
    let origin = echo_origin();
    let taken = Origin::bind();
    let before = setup(WEB, &[origin], ALL);
    let proxy = Proxy::start(io, &before);
    let other = format!(r#"{WEB}, {{ name: other, address: "{}", http: {{}} }}"#, taken.address);
    proxy.rewrite(&setup(&other, &[origin], &ALL.replace("[web]", "[web, other]")));
    proxy.signal("HUP");
    let fact = proxy.says("reload: listeners/other: ");
    assert!(fact.contains("another process listens there"), "{fact}");
    // The port that the kernel chose for another listener, which stays.
    let web = proxy.address("web").to_string();
    let ours = other.replace(&taken.address.to_string(), &web);
    proxy.rewrite(&setup(&ours, &[origin], &ALL.replace("[web]", "[web, other]")));
    proxy.signal("HUP");
    let fact = proxy.says(&format!("reload: listeners/other: cannot listen on {web}"));
    assert!(fact.contains("another listener has that port"), "{fact}");
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.metric_becomes(&["ringside_config_generation"], "1");
}

fn what_is_read_at_start_only_is_said_so(io: &str) {
    let before = config(echo_origin(), "", "", "");
    let proxy = Proxy::start(io, &before);
    proxy.rewrite(&before.replace("workers: 1", "workers: 2"));
    proxy.signal("HUP");
    proxy.says("reload: restart_required: `workers`");
    proxy.metric_becomes(&["ringside_config_generation"], "1");
}

fn no_request_fails_while_the_config_changes(io: &str) {
    const REQUESTS: usize = 2_000;
    let endpoints = [named("a"), named("b"), named("c")];
    let proxy = Proxy::start(io, &setup(WEB, &endpoints, ALL));
    let address = proxy.address("web");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            beside(move || {
                let mut client = Client::connect(address);
                for n in 0..REQUESTS {
                    let request = match n % 2 {
                        0 => "GET / HTTP/1.1\r\nhost: web\r\n\r\n",
                        _ => "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhi",
                    };
                    assert_eq!(client.ask(request).status(), 200);
                }
            })
        })
        .collect();
    let mut turns = 0;
    while !clients.iter().all(thread::JoinHandle::is_finished) {
        turns += 1;
        let some: Vec<_> = endpoints.iter().copied().cycle().skip(turns).take(2).collect();
        let route = format!(
            "{{ name: r{turns}, listeners: [web], hosts: [h], backends: [{{ service: origin }}] }}"
        );
        proxy.reload(&setup(WEB, &some, &format!("{ALL}, {route}")));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    let total = (4 * REQUESTS).to_string();
    proxy.metric_becomes(&["ringside_requests_total", r#"route="all""#, r#"code="200""#], &total);
    proxy.metric_becomes(&["ringside_connections_total", "web"], "4");
}
