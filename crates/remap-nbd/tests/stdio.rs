//! One client on two pipes, or on a socket that is both.

mod common;

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;

use common::memory::MemoryExport;
use common::pattern;
use remap_nbd::{Client, ClientOptions, ConnectionLimits, serve_pair};

const MIB: usize = 1 << 20;

/// The client's ends.
struct Pipes(PipeReader, PipeWriter);

impl Read for Pipes {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Pipes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.1.flush()
    }
}

#[test]
fn pipes_carry_a_whole_session() {
    for polite in [true, false] {
        let export = MemoryExport::new(4 * MIB);
        let (their_input, our_output) = pipe().unwrap();
        let (our_input, their_output) = pipe().unwrap();
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                serve_pair(
                    &*export,
                    their_input.into(),
                    their_output.into(),
                    None,
                    ConnectionLimits::default(),
                )
            });
            let stream = Box::new(Pipes(our_input, our_output));
            let mut client = Client::over(stream, "mem", &ClientOptions::default()).unwrap();
            client.write(MIB as u64, &pattern(2 * MIB, 3), true).unwrap();
            let mut bytes = vec![0; 2 * MIB];
            assert_eq!(client.read(MIB as u64, &mut bytes).unwrap(), []);
            assert!(bytes == pattern(2 * MIB, 3));
            if polite {
                client.disconnect().unwrap();
            } else {
                drop(client);
            }
            serving.join().unwrap().unwrap();
        });
        assert_eq!(export.shared.outstanding.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_socket_as_standard_input_is_used_directly() {
    let export = MemoryExport::new(MIB);
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let output = theirs.try_clone().unwrap();
        let serving = scope
            .spawn(|| serve_pair(&*export, theirs.into(), output.into(), None, ConnectionLimits::default()));
        let mut client = Client::over(Box::new(ours), "", &ClientOptions::default()).unwrap();
        client.flush().unwrap();
        drop(client);
        serving.join().unwrap().unwrap();
    });
}
