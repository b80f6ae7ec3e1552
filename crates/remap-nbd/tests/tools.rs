//! The usual NBD clients against the server. A tool that is not installed is skipped, and said so.

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use common::memory::MemoryExport;
use common::pattern;
use remap_nbd::{Listen, Server, ServerConfig, Uri};
use remap_runtime::front::BlockState;

const MIB: usize = 1 << 20;

/// Runs `tool`; `None` when it is not installed.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: {tool} is not installed");
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Serves while `test` runs with the URI and a directory for files.
fn with_server(export: &Arc<MemoryExport>, test: impl FnOnce(&str, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let listen = vec![Listen::Unix(dir.path().join("sock"), 0o600)];
    let config = ServerConfig { listen, ..ServerConfig::default() };
    let server = Server::bind(config, Arc::clone(export)).unwrap();
    let stop = server.stop_handle();
    let uri = Uri::unix(&dir.path().join("sock"), "mem").to_string();
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&uri, dir.path())));
        stop.stop();
        running.join().unwrap().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn nbdinfo_describes_lists_and_maps() {
    let export = MemoryExport::new(MIB);
    export.lose([16, 17]);
    export.set_state(32, BlockState::Remapped);
    with_server(&export, |uri, _| {
        let Some(info) = run("nbdinfo", &[uri]) else { return };
        let shown = text(&info);
        assert!(info.status.success(), "{shown}");
        for expected in [
            "memory for tests",
            "export-size: 1048576",
            "can_multi_conn: true",
            "block_size_minimum: 512",
            "dm-remap:state",
        ] {
            assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
        }
        let list = run("nbdinfo", &["--list", uri]).unwrap();
        assert!(list.status.success() && text(&list).contains("export=\"mem\""), "{}", text(&list));
        let map = run("nbdinfo", &["--map=dm-remap:state", uri]).unwrap();
        let rows: Vec<Vec<u64>> = text(&map)
            .lines()
            .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
            .collect();
        assert_eq!(rows[0], [0, 8192, 0]);
        assert_eq!(rows[1], [8192, 1024, 3]);
        assert_eq!(rows[3], [16384, 512, 1]);
    });
}

#[test]
fn nbdcopy_copies_out_and_in() {
    let export = MemoryExport::new(8 * MIB);
    with_server(&export, |uri, dir| {
        let (out, input) = (dir.join("out"), dir.join("in"));
        let Some(copied) = run("nbdcopy", &[uri, out.to_str().unwrap()]) else { return };
        assert!(copied.status.success(), "{}", text(&copied));
        assert!(std::fs::read(&out).unwrap() == pattern(8 * MIB, 0));
        let mut bytes = pattern(8 * MIB, 4);
        bytes[MIB..3 * MIB].fill(0);
        std::fs::write(&input, &bytes).unwrap();
        let copied = run("nbdcopy", &["--flush", input.to_str().unwrap(), uri]).unwrap();
        assert!(copied.status.success(), "{}", text(&copied));
        assert!(export.bytes() == bytes);
    });
}

#[test]
fn qemu_img_and_qemu_io_work() {
    let export = MemoryExport::new(8 * MIB);
    with_server(&export, |uri, dir| {
        let Some(info) = run("qemu-img", &["info", "--output=json", uri]) else { return };
        assert!(info.status.success() && text(&info).contains("8388608"), "{}", text(&info));
        let raw = dir.join("raw");
        std::fs::write(&raw, pattern(8 * MIB, 0)).unwrap();
        let compare = |what: &str| {
            let same =
                run("qemu-img", &["compare", "-f", "raw", "-F", "raw", raw.to_str().unwrap(), uri]).unwrap();
            assert!(same.status.success(), "{what}: {}", text(&same));
        };
        compare("untouched");
        let Some(io) = run(
            "qemu-io",
            &[
                "-f",
                "raw",
                "-c",
                "write -P 7 4096 65536",
                "-c",
                "write -z -u 131072 65536",
                "-c",
                "flush",
                "-c",
                "discard 0 4096",
                "-c",
                "read -P 7 4096 65536",
                "-c",
                "read -P 0 131072 65536",
                uri,
            ],
        ) else {
            return;
        };
        let shown = text(&io);
        assert!(io.status.success() && !shown.contains("failed"), "{shown}");
        let mut bytes = pattern(8 * MIB, 0);
        bytes[4096..69_632].fill(7);
        bytes[131_072..196_608].fill(0);
        assert!(export.bytes() == bytes);
        std::fs::write(&raw, &bytes).unwrap();
        compare("written");
        let converted =
            run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", raw.to_str().unwrap(), uri])
                .unwrap();
        assert!(converted.status.success(), "{}", text(&converted));
        compare("converted");
        // A lost sector is an error there, and only there.
        export.lose([4096]);
        let bad = run("qemu-io", &["-f", "raw", "-c", "read 2097152 512", uri]).unwrap();
        assert!(text(&bad).contains("Input/output error"), "{}", text(&bad));
        let good = run("qemu-io", &["-f", "raw", "-c", "read 2097664 4096", uri]).unwrap();
        assert!(good.status.success() && !text(&good).contains("failed"), "{}", text(&good));
    });
}
