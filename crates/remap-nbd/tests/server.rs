//! The server on real sockets: several clients, too many clients, an orderly end.

mod common;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::memory::MemoryExport;
use common::raw::Raw;
use common::{PATIENCE, pattern};
use remap_nbd::proto::command;
use remap_nbd::{
    BindError, Client, ClientOptions, ConnectionLimits, Listen, RunError, Server, ServerConfig, StopHandle,
    Uri,
};
use remap_runtime::front::FrontRequest;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

struct Running {
    server: Arc<Server<MemoryExport>>,
    stop: StopHandle,
    thread: JoinHandle<Result<(), RunError>>,
    dir: TempDir,
}

impl Running {
    fn start(export: &Arc<MemoryExport>, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig {
            listen: vec![Listen::Unix(dir.path().join("sock"), 0o600)],
            drain_timeout: PATIENCE,
            ..ServerConfig::default()
        };
        change(&mut config);
        let server = Arc::new(Server::bind(config, Arc::clone(export)).unwrap());
        let stop = server.stop_handle();
        let run = Arc::clone(&server);
        Self { server, stop, thread: thread::spawn(move || run.run()), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.server.uris()[0], &ClientOptions::default()).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn stop(self) -> Result<(), RunError> {
        self.stop.stop();
        self.thread.join().unwrap()
    }

    /// Waits until as many connections are open.
    fn wait_for_connections(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.server.connections().len() != count {
            assert!(Instant::now() < deadline, "{} connections", self.server.connections().len());
            thread::yield_now();
        }
    }
}

#[test]
fn clients_over_unix_and_tcp_share_the_volume() {
    let export = MemoryExport::new(MIB);
    let running = Running::start(&export, |config| {
        config.listen.push(Listen::Tcp("127.0.0.1:0".parse().unwrap()));
        config.export_name = Some("other name".into());
    });
    let uris = running.server.uris();
    assert_eq!(uris.len(), 2);
    assert_eq!(running.server.tcp_addresses().len(), 1);
    assert_eq!(running.server.socket_paths(), [running.path()]);
    let connect =
        |uri: &Uri| Client::connect(&uri.to_string().parse().unwrap(), &ClientOptions::default()).unwrap();
    let (mut one, mut two) = (connect(&uris[0]), connect(&uris[1]));
    one.write(4096, &[7; 4096], false).unwrap();
    two.flush().unwrap();
    let mut bytes = [0; 4096];
    assert_eq!(two.read(4096, &mut bytes).unwrap(), []);
    assert_eq!(bytes, [7; 4096]);
    let list = running.server.connections();
    assert_eq!(list.len(), 2);
    assert!(list.iter().all(|connection| connection.transmitting && connection.requests > 0));
    assert!(
        list.iter().any(|connection| connection.bytes_written == 4096 && connection.peer.contains("process"))
    );
    assert!(
        list.iter().any(|connection| connection.bytes_read == 4096 && connection.peer.contains("127.0.0.1:"))
    );
    one.disconnect().unwrap();
    two.disconnect().unwrap();
    running.wait_for_connections(0);
    running.stop().unwrap();
}

#[test]
fn connections_above_the_limit_are_closed_and_others_go_on() {
    // CVE-2024-7409: unlimited connections use up the descriptors.
    let export = MemoryExport::new(MIB);
    let running = Running::start(&export, |_| {});
    let mut open: Vec<UnixStream> = Vec::new();
    for _ in 0..100 {
        let mut stream = running.raw();
        stream.read_exact(&mut [0; 18]).unwrap();
        open.push(stream);
    }
    assert_eq!(running.server.connections().len(), 100);
    let mut late = running.raw();
    assert_eq!(late.read(&mut [0; 18]).unwrap(), 0, "the 101st is closed");
    assert_eq!(running.server.counts().refused, 1);
    open.pop();
    running.wait_for_connections(99);
    let mut client = running.client();
    client.flush().unwrap();
    drop(open);
    running.stop().unwrap();
}

#[test]
fn stopping_finishes_and_answers_what_is_in_flight() {
    let export = MemoryExport::new(MIB);
    let running = Running::start(&export, |_| {});
    let mut raw = Raw::transmitting(running.raw(), false);
    let mut idle = Raw::transmitting(running.raw(), false);
    let mut shaking = running.raw();
    export.hold_all();
    for n in 0..4u64 {
        raw.request(0, command::WRITE, n, n * 512, 512);
        raw.put(&pattern(512, 9));
    }
    export.wait_for_requests(4);
    running.stop.stop();
    // The server refuses requests that come now; what came before is finished.
    idle.closed();
    let mut all = Vec::new();
    shaking.read_to_end(&mut all).unwrap();
    running.wait_for_connections(1);
    export.release();
    for n in 0..4 {
        assert_eq!(raw.simple_reply(), (0, n));
    }
    raw.closed();
    running.thread.join().unwrap().unwrap();
    assert_eq!(export.bytes()[..512], pattern(512, 9));
}

#[test]
fn stopping_is_bounded_when_a_client_does_not_read() {
    let export = MemoryExport::new(4 * MIB);
    let running = Running::start(&export, |config| config.drain_timeout = Duration::from_millis(200));
    let mut raw = Raw::transmitting(running.raw(), true);
    for n in 0..8 {
        raw.request(0, command::READ, n, 0, 4 << 20);
    }
    export.wait_for_requests(8);
    running.stop().unwrap();
    drop(raw);
}

#[test]
fn stopping_tells_when_the_devices_do_not_answer() {
    let export = MemoryExport::new(MIB);
    let running = Running::start(&export, |config| config.drain_timeout = Duration::from_millis(100));
    let mut raw = Raw::transmitting(running.raw(), true);
    export.hold_all();
    raw.request(0, command::READ, 1, 0, 512);
    export.wait_for_requests(1);
    let server = Arc::clone(&running.server);
    assert!(matches!(running.stop(), Err(RunError::Stuck(1))));
    export.release();
    let deadline = Instant::now() + PATIENCE;
    while !server.connections().is_empty() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
}

#[test]
fn a_long_range_stops_between_its_parts() {
    let export = MemoryExport::with(
        remap_runtime::front::Geometry { max_io: 4096, ..common::memory::geometry(MIB as u64) },
        pattern(MIB, 0),
    );
    let running = Running::start(&export, |_| {});
    let mut raw = Raw::transmitting(running.raw(), false);
    let mut later = Raw::transmitting(running.raw(), false);
    export.hold(8192);
    raw.request(0, command::WRITE_ZEROES, 1, 0, 1 << 20);
    export.wait_for_requests(3);
    running.stop.stop();
    // Connections are told to stop in their order: when the later one has ended, the first one knows.
    later.closed();
    export.release();
    assert_eq!(raw.simple_reply(), (108, 1));
    raw.closed();
    running.thread.join().unwrap().unwrap();
    let offsets: Vec<u64> = export.log().iter().map(|request: &FrontRequest| request.offset).collect();
    assert_eq!(offsets, [0, 4096, 8192]);
}

#[test]
fn slow_handshakes_do_not_keep_others_out() {
    let export = MemoryExport::new(MIB);
    let running = Running::start(&export, |config| {
        config.max_connections = 4;
        config.limits =
            ConnectionLimits { handshake_timeout: Duration::from_millis(100), ..ConnectionLimits::default() };
    });
    let mut slow: Vec<UnixStream> = (0..4).map(|_| running.raw()).collect();
    for stream in &mut slow {
        // The server ends each by its own clock.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    running.wait_for_connections(0);
    running.client().flush().unwrap();
    assert_eq!(running.server.counts().failed, 4);
    running.stop().unwrap();
}

#[test]
fn binding_tells_what_is_wrong() {
    let export = MemoryExport::new(MIB);
    let bind = |listen| Server::bind(ServerConfig { listen, ..ServerConfig::default() }, Arc::clone(&export));
    assert!(matches!(bind(vec![]), Err(BindError::Nowhere)));
    let outside: SocketAddr = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(bind(vec![Listen::Tcp(outside)]), Err(BindError::NotLoopback(_))));
    let running = Running::start(&export, |_| {});
    assert!(matches!(bind(vec![Listen::Unix(running.path(), 0o600)]), Err(BindError::InUse(_))));
    running.client().flush().unwrap();
    running.stop().unwrap();
}

#[test]
fn an_inherited_socket_is_served_and_left_in_place() {
    let export = MemoryExport::new(MIB);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inherited");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let running = Running::start(&export, |config| config.listen = vec![Listen::Fd(listener.into())]);
    assert_eq!(running.server.uris(), []);
    let mut client = Client::connect(&Uri::unix(&path, "mem"), &ClientOptions::default()).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    running.stop().unwrap();
    assert!(path.exists(), "it belongs to the service manager");
}

#[test]
fn many_clients_at_once_keep_their_bytes_apart() {
    let export = MemoryExport::new(4 * MIB);
    let running = Running::start(&export, |config| {
        config.listen.push(Listen::Tcp("127.0.0.1:0".parse().unwrap()));
    });
    let uris = running.server.uris();
    thread::scope(|scope| {
        for n in 0..8u64 {
            let uri = &uris[usize::try_from(n % 2).unwrap()];
            scope.spawn(move || {
                let mut client = Client::connect(uri, &ClientOptions::default()).unwrap();
                let base = n * 512 * 1024;
                for round in 0..20 {
                    let bytes = pattern(256 * 1024, n * 100 + round);
                    client.write(base + round * 512, &bytes, false).unwrap();
                    let mut back = vec![0; bytes.len()];
                    assert_eq!(client.read(base + round * 512, &mut back).unwrap(), []);
                    assert!(back == bytes, "client {n}, round {round}");
                }
                client.disconnect().unwrap();
            });
        }
    });
    assert_eq!(running.server.counts().accepted, 8);
    running.stop().unwrap();
}

#[test]
fn a_tcp_client_that_resets_is_forgotten() {
    let export = MemoryExport::new(MIB);
    let running = Running::start(&export, |config| {
        config.listen.push(Listen::Tcp("127.0.0.1:0".parse().unwrap()));
    });
    for _ in 0..20 {
        let stream = TcpStream::connect(running.server.tcp_addresses()[0]).unwrap();
        // Closed with the greeting unread, which resets the connection.
        stream.peek(&mut [0]).unwrap();
        drop(stream);
    }
    running.wait_for_connections(0);
    running.client().flush().unwrap();
    running.stop().unwrap();
}
