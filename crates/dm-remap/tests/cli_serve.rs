//! `serve`, `status` and `message` as one: a volume in service, killed, restarted, and refused.

mod program;

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use program::{Bench, Server, client, exists, read};
use remap_nbd::{Client, ClientOptions, Uri};
use rustix::process::Signal;

#[test]
fn a_volume_in_service_answers_and_stops_cleanly() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let server = bench.serve(&[]);
    assert!(
        server.line.starts_with("serving 'vol' (4.0 MiB, healthy) at nbd+unix:///vol?socket="),
        "{}",
        server.line
    );
    assert_eq!(bench.sockets().len(), 2);
    let mut nbd = server.client();
    assert!(read(&mut nbd, 0, disk.len()) == disk);
    nbd.write(8192, &[7; 4096], true).unwrap();
    assert_eq!(bench.tell(&["ping"]), "pong");
    let status = bench.status();
    assert_eq!(status["schema_version"], 1);
    assert_eq!(status["name"], "vol");
    assert_eq!(status["state"], "healthy");
    assert_eq!(status["size"], 4 << 20);
    assert_eq!(status["main"]["path"], "main");
    assert_eq!(status["spares"][0]["path"], "spare");
    assert_eq!(status["metadata"]["copies_in_step"].as_array().map(Vec::len), Some(5));
    assert_eq!(status["clients"].as_array().map(Vec::len), Some(1));
    assert!(status["requests"]["writes"].as_u64() >= Some(1), "{status}");
    let text = bench.run(&["status", "vol"]).done().out;
    for row in ["state: healthy", "happened: nothing", "do: nothing", "means: every block"] {
        assert!(text.contains(row), "{row:?} is missing in {text}");
    }
    assert!(bench.run(&["status"]).done().out.starts_with("vol: healthy"));
    assert_eq!(bench.run(&["status", "vol", "--exit-code"]).code, Some(0));
    let log = server.terminate();
    assert!(log.contains(" info    stopped"), "{log}");
    assert!(bench.sockets().is_empty(), "{:?}", bench.sockets());
    let mut expected = disk;
    expected[8192..12288].fill(7);
    assert!(bench.bytes("main") == expected, "nothing else was written");
}

/// While requests come, in the order of the volume.
#[test]
fn a_trace_shows_where_the_time_of_requests_goes() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let server = bench.serve(&[]);
    let mut nbd = server.client();
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let load = std::thread::spawn(move || {
        while !stop.load(Ordering::Acquire) {
            for at in (0..disk.len()).step_by(4096) {
                read(&mut nbd, at as u64, 4096);
            }
            nbd.write(0, &[7; 4096], false).unwrap();
            nbd.flush().unwrap();
        }
    });
    let json = bench.run(&["trace", "vol", "--seconds", "1", "--json"]).done().out;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["schema_version"], 1);
    let text = bench.run(&["trace", "vol", "--seconds", "1"]).done().out;
    over.store(true, Ordering::Release);
    load.join().unwrap();
    for row in ["read            device", "receive", "whole", "flush"] {
        assert!(text.contains(row), "{row:?} is missing in {text}");
    }
    let stages = report["stages"].as_array().unwrap();
    let count = |kind: &str, stage: &str| {
        stages.iter().find(|s| s["kind"] == kind && s["stage"] == stage).and_then(|s| s["count"].as_u64())
    };
    assert!(count("read", "whole") > Some(0) && count("read", "device") >= count("read", "whole"), "{json}");
    assert_eq!(count("read", "owner"), None, "no block is in trouble");
    let status = bench.status();
    assert_eq!(status["requests"]["pattern"], "unknown", "of those who are there now");
    bench.run(&["trace", "nobody"]).refused(7, &["nobody: no such volume"]);
    let seconds = bench.run(&["trace", "vol", "--seconds", "3601"]);
    assert!(seconds.code == Some(2) && seconds.err.contains("3601 is not in 1..=3600"), "{seconds:?}");
}

#[test]
fn messages_speak_the_modules_words() {
    let bench = Bench::create();
    bench.adopted();
    let server = bench.serve(&[]);
    let moved = bench.tell(&["remap", "7"]);
    let spare = moved.strip_prefix("remapped sector 7 -> spare sector ").expect(&moved).to_owned();
    assert_eq!(bench.tell(&["VERIFY", "0x7"]), format!("sector 7 -> spare {spare}"));
    assert_eq!(bench.tell(&["verify", "8"]), "sector 8 not remapped");
    assert_eq!(bench.tell_in_vain(&["remap", "6"]), "error: sector 6 already remapped");
    assert_eq!(bench.tell_in_vain(&["remap", "x"]), "error: invalid sector 'x'");
    assert!(
        bench
            .tell_in_vain(&["remap", "8192"])
            .starts_with("error: invalid sector '8192': the volume has 8192")
    );
    assert!(bench.tell(&["remap", "8-31"]).starts_with("remapped 3 blocks of 3"));
    assert!(bench.tell(&["verify", "0-31"]).starts_with("verified 4 blocks: 4 as the table says"));
    assert_eq!(bench.tell(&["save"]), "metadata saved successfully");
    // Neighbours are one entry if they moved in the same second.
    let entries = bench.status()["table"]["entries"].clone();
    assert_eq!(bench.tell(&["sync"]), format!("synced {entries} entries to metadata"));
    assert_eq!(bench.tell(&["restore"]), format!("restored {entries} remap entries"));
    assert!(bench.tell(&["status"]).starts_with(&format!("mappings={entries} ")));
    assert!(bench.tell(&["health"]).starts_with("health_score=80% health=1 state=degraded"));
    assert!(bench.tell(&["stats"]).contains("remapped_sectors=32"));
    assert_eq!(bench.tell(&["clear_stats"]), "Statistics cleared");
    assert!(bench.tell(&["metadata_status"]).starts_with("metadata: enabled, autosave: active, saves: "));
    assert!(bench.tell(&["cache_stats"]).starts_with("cache_hits=0"));
    assert!(
        bench
            .tell(&["test_remap", "100", "5"])
            .starts_with("Created test remap: bad_sector=100 spare_sector=")
    );
    assert_eq!(bench.tell(&["clear", "100"]), "cleared 1 block");
    assert_eq!(bench.tell_in_vain(&["test_remap", "100"]), "Usage: test_remap <bad_sector> <spare_sector>");
    assert!(
        bench
            .tell_in_vain(&["format", "c:"])
            .starts_with("error: unknown command 'format' (try: ping, remap,")
    );
    assert!(bench.tell_in_vain(&["ping", "pong"]).starts_with("error: wrong arguments for 'ping'"));
    assert_eq!(bench.tell(&["suspend"]), "remapping suspended");
    assert_eq!(bench.status()["suspended"]["fault"], "by command");
    assert_eq!(bench.run(&["status", "vol", "--exit-code"]).code, Some(2));
    assert_eq!(bench.tell(&["resume"]), "remapping resumed");
    assert_eq!(bench.run(&["status", "vol", "--exit-code"]).code, Some(1));
    assert_eq!(bench.tell(&["clear"]), "cleared all remap entries");
    assert_eq!(bench.tell(&["verify", "7"]), "sector 7 not remapped");
    assert_eq!(bench.status()["state"], "healthy");
    server.terminate();
}

#[test]
fn lost_sectors_fail_until_they_are_overwritten() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let server = bench.serve(&["--drill", "main:bad=sectors:100-101,on=both"]);
    let mut nbd = server.client();
    let mut bytes = vec![0; 8192];
    let bad = nbd.read(96 * 512, &mut bytes).unwrap();
    assert_eq!(bad.iter().map(|range| (range.start, range.len)).collect::<Vec<_>>(), [(100 * 512, 1024)]);
    assert!(bytes[..4 * 512] == disk[96 * 512..100 * 512] && bytes[6 * 512..] == disk[102 * 512..112 * 512]);
    // A write waits for what was found before it, so the table is settled after it.
    nbd.write(100 * 512, &[9; 512], true).unwrap();
    let status = bench.status();
    assert_eq!(status["table"]["lost_sectors"], 1, "{status}");
    assert_eq!(status["drills"][0]["device"], "main");
    assert_eq!(bench.run(&["status", "vol", "--exit-code"]).code, Some(2));
    assert!(bench.tell(&["verify", "101"]).ends_with("(lost: reads fail until it is overwritten)"));
    let line = bench.run(&["status", "vol", "--line"]).done().out;
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..5], ["0", "8192", "remap", "v2.0", &format!("1/{}", status["slots"]["total"])]);
    assert_eq!(words[5].split('/').next(), Some("1"), "{line}");
    assert_eq!((words[7], words[9], words[11]), ("health=2", "auto_remaps=1", "scan=0%"), "{line}");
    nbd.write(101 * 512, &[9; 512], true).unwrap();
    assert!(read(&mut nbd, 100 * 512, 1024) == [9; 1024]);
    assert_eq!(bench.status()["table"]["lost_sectors"], 0);
    assert_eq!(bench.tell(&["drill", "main", "off"]), "drill main off");
    assert_eq!(bench.status()["drills"][0]["enabled"], false);
    assert_eq!(bench.tell_in_vain(&["drill", "spare0", "on"]).split(':').next(), Some("error"));
    let log = server.terminate();
    assert!(log.contains("warning block 12 (sectors 96-103) is now at spare0:"), "{log}");
}

#[test]
fn a_killed_server_comes_back_with_everything() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let server = bench.serve(&["--drill", "main:bad=sectors:800-807"]);
    let mut nbd = server.client();
    nbd.write(800 * 512, &[5; 4096], true).unwrap();
    nbd.write(0, &[6; 512], true).unwrap();
    let place = bench.tell(&["verify", "800"]);
    assert!(place.starts_with("sector 800 -> spare "), "{place}");
    server.kill();
    assert_eq!(bench.sockets().len(), 2, "it had no time to remove them");
    assert!(bench.run(&["status"]).done().out.contains("left behind"));
    let server = bench.serve(&[]);
    assert_eq!(bench.tell(&["verify", "800"]), place);
    let mut expected = disk;
    expected[800 * 512..808 * 512].fill(5);
    expected[..512].fill(6);
    assert!(read(&mut server.client(), 0, expected.len()) == expected);
    server.terminate();
}

#[test]
fn a_second_server_is_refused_and_the_first_unharmed() {
    let bench = Bench::create();
    bench.adopted();
    let server = bench.serve(&[]);
    bench.run(&["serve", "main", "--spare", "spare"]).refused(5, &["main: in use"]);
    bench.run(&["adopt", "main", "--spare", "spare", "--force"]).refused(5, &["in use"]);
    bench.run(&["metadata", "check", "--spare", "spare"]).refused(5, &["spare: in use"]);
    // Another volume of the same name: its devices are free, its sockets are not.
    bench.disk("other", 1 << 20);
    bench.run(&["adopt", "other", "--spare", "more", "--create-spare", "2M", "--name", "vol"]).done();
    bench.run(&["serve", "other", "--spare", "more"]).refused(5, &["in use by a running server"]);
    let elsewhere =
        ["serve", "other", "--spare", "more", "--unix", "x.nbd", "--control", "dm-remap/vol.control"];
    bench.run(&elsewhere).refused(5, &["vol.control: in use"]);
    assert_eq!(bench.tell(&["ping"]), "pong");
    assert_eq!(server.client().size(), 4 << 20);
    server.terminate();
}

#[test]
fn wrong_devices_are_refused_and_not_written_to() {
    let bench = Bench::create();
    // Two disks that can be told apart, by the magic and UUID of a file system.
    for (name, uuid) in [("main", 1), ("impostor", 2)] {
        let mut disk = bench.disk(name, 4 << 20);
        disk[1024 + 0x38..1024 + 0x3a].copy_from_slice(b"\x53\xef");
        disk[1024 + 0x68..1024 + 0x78].fill(uuid);
        std::fs::write(bench.path(name), disk).unwrap();
    }
    bench.disk("small", 1 << 20);
    bench.disk("blank", 2 << 20);
    bench.run(&["adopt", "main", "--spare", "spare", "--create-spare", "2M", "--name", "vol"]).done();
    let before = (bench.bytes("impostor"), bench.bytes("spare"));
    let serve = |main: &str, spare: &str| bench.run(&["serve", main, "--spare", spare]);
    serve("impostor", "spare").refused(4, &["impostor: is not the main device of volume 'vol'", "--force"]);
    serve("small", "spare").refused(4, &["small: has 1048576 bytes, 4194304 when it was adopted"]);
    serve("main", "blank").refused(4, &["blank: no dm-remap metadata here", "adopt"]);
    serve("main", "nowhere").refused(7, &["nowhere"]);
    serve("nowhere", "spare").refused(7, &["nowhere"]);
    bench
        .run(&["serve", "main", "--spare", "spare", "--tcp", "192.0.2.1:1"])
        .refused(2, &["not a loopback address"]);
    assert!((bench.bytes("impostor"), bench.bytes("spare")) == before, "something was written");
    assert!(bench.sockets().is_empty());
}

#[test]
fn a_released_volume_is_opened_by_force_only() {
    let bench = Bench::create();
    bench.adopted();
    bench.run(&["release", "main", "--spare", "spare", "--yes"]).done();
    bench.run(&["serve", "main", "--spare", "spare"]).refused(4, &["released", "--force"]);
    let server = bench.serve(&["--force"]);
    assert_eq!(bench.tell(&["ping"]), "pong");
    server.terminate();
    bench.serve(&[]).terminate();
}

/// Offsets of all superblocks on a spare.
fn superblocks(spare: &[u8]) -> Vec<usize> {
    (0..spare.len()).step_by(4096).filter(|at| spare[*at..].starts_with(b"dm-remap")).collect()
}

#[test]
fn damaged_copies_are_repaired_and_too_many_are_refused() {
    let bench = Bench::create();
    bench.adopted();
    let whole = bench.bytes("spare");
    let places = superblocks(&whole);
    assert!(places.len() >= 5, "{places:?}");
    let mut damaged = whole.clone();
    for at in &places {
        damaged[at + 200] ^= 1;
    }
    std::fs::write(bench.path("spare"), &damaged).unwrap();
    bench.run(&["serve", "main", "--spare", "spare"]).refused(6, &["spare: "]);
    assert!(bench.bytes("spare") == damaged, "it was written to");
    // All but the last one.
    let last = whole.len() - 64 * 1024;
    damaged[last..].copy_from_slice(&whole[last..]);
    let kept = places.iter().filter(|at| **at >= last).count();
    let mut damaged = whole;
    for at in places.iter().take(if kept > 0 { places.len() - kept } else { places.len() - 1 }) {
        damaged[at + 200] ^= 1;
    }
    std::fs::write(bench.path("spare"), &damaged).unwrap();
    let server = bench.serve(&[]);
    assert_eq!(
        bench.status()["metadata"]["copies_in_step"],
        serde_json::json!([true, true, true, true, true])
    );
    let log = server.terminate();
    assert!(log.contains("warning metadata copy") && log.contains("written anew"), "{log}");
    bench.run(&["metadata", "check", "--spare", "spare"]).done();
}

#[test]
fn restore_repairs_what_is_damaged_while_in_service() {
    let bench = Bench::create();
    bench.adopted();
    let server = bench.serve(&[]);
    bench.tell(&["remap", "0"]);
    bench.tell(&["save"]);
    let spare = bench.bytes("spare");
    let file = std::fs::OpenOptions::new().write(true).open(bench.path("spare")).unwrap();
    let places = superblocks(&spare);
    for at in places.iter().take(places.len() / 2) {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 512], *at as u64).unwrap();
    }
    file.sync_all().unwrap();
    let reply = bench.tell(&["restore"]);
    assert!(
        reply.starts_with("restored 1 remap entries (") && reply.ends_with("of 5 copies were repaired)"),
        "{reply}"
    );
    assert_eq!(bench.tell(&["restore"]), "restored 1 remap entries");
    assert!(bench.tell(&["save", "dump.json"]).contains("dump written to dump.json"));
    let reply = bench.tell_in_vain(&["restore", "dump.json"]);
    assert!(reply.contains("newer than any dump") && reply.contains("metadata rollback"), "{reply}");
    assert!(bench.tell(&["save", "dump.json"]).contains("dump written"), "a dump gives way to a newer one");
    std::fs::write(bench.path("letter"), "dear").unwrap();
    bench.message(&["save", "letter"]).refused(5, &["letter", "exists"]);
    assert_eq!(bench.bytes("letter"), b"dear");
    server.terminate();
    bench.run(&["metadata", "check", "--spare", "spare"]).done();
    let dump: serde_json::Value = serde_json::from_slice(&bench.bytes("dump.json")).unwrap();
    assert_eq!(dump["entries"].as_array().map(Vec::len), Some(1));
}

#[test]
fn read_only_writes_nothing_anywhere() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let spare = bench.bytes("spare");
    let server = bench.serve(&["--read-only", "--drill", "main:bad=sectors:64-71"]);
    assert!(server.line.contains("read-only"), "{}", server.line);
    let mut nbd = server.client();
    assert!(nbd.write(0, &[1; 512], false).is_err());
    let mut bytes = vec![0; 8192];
    assert!(!nbd.read(64 * 512, &mut bytes).unwrap().is_empty());
    assert_eq!(bench.tell_in_vain(&["remap", "7"]), "error: the volume is served read-only");
    assert_eq!(bench.tell(&["verify", "7"]), "sector 7 not remapped");
    assert_eq!(bench.run(&["status", "vol", "--exit-code"]).code, Some(0));
    assert!(bench.run(&["status", "vol"]).done().out.contains("state: served read-only"));
    server.terminate();
    assert!(bench.bytes("main") == disk && bench.bytes("spare") == spare, "something was written");
}

#[test]
fn one_client_on_standard_input() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let output = Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut child = bench
        .command(&["serve", "main", "--spare", "spare", "--stdio"])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut nbd = Client::over(Box::new(ours), "vol", &ClientOptions::default()).unwrap();
    assert!(read(&mut nbd, 0, disk.len()) == disk);
    assert_eq!(bench.tell(&["ping"]), "pong");
    nbd.disconnect().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("serving 'vol'"), "{log}");
    assert!(bench.sockets().is_empty());
}

#[test]
fn a_service_starter_gives_the_socket_and_is_told() {
    let bench = Bench::create();
    bench.adopted();
    let starter = UnixDatagram::bind(bench.path("starter")).unwrap();
    let socket = UnixListener::bind(bench.path("given")).unwrap();
    let mut shell = std::process::Command::new("sh");
    let command = bench.command(&[]);
    shell.current_dir(bench.path(".")).env("XDG_RUNTIME_DIR", bench.path("."));
    shell.env("NOTIFY_SOCKET", bench.path("starter"));
    shell.args([
        "-c",
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve main --spare spare",
    ]);
    let mut child = shell
        .arg(command.get_program())
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 64];
    let len = starter.recv(&mut word).unwrap();
    assert_eq!(&word[..len], b"READY=1");
    assert_eq!(client(&Uri::unix(&bench.path("given"), "vol")).size(), 4 << 20);
    assert!(!exists(&bench.path("dm-remap/vol.nbd")), "the given socket is the only one");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let len = starter.recv(&mut word).unwrap();
    assert_eq!(&word[..len], b"STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn tcp_stays_on_this_machine_and_works() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let server = bench.serve(&["--tcp", "127.0.0.1:0"]);
    assert!(server.line.contains("nbd://127.0.0.1:"), "{}", server.line);
    assert!(read(&mut server.client(), 4096, 4096) == disk[4096..8192]);
    assert_eq!(bench.tell(&["ping"]), "pong");
    server.terminate();
}

#[test]
fn rubbish_on_the_control_socket_harms_nobody() {
    let bench = Bench::create();
    bench.adopted();
    let server = bench.serve(&[]);
    for rubbish in
        [&b"\n"[..], b"{}\n", b"\xff\xfe\n", b"{\"version\":1,\"ask\":\"entries\"", &[b'['; 60_000]]
    {
        let mut stream = UnixStream::connect(bench.path("dm-remap/vol.control")).unwrap();
        stream.write_all(rubbish).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.contains("not understood"), "{reply}");
    }
    assert_eq!(bench.tell(&["ping"]), "pong");
    server.terminate();
}

#[test]
fn transport_errors_move_nothing() {
    let bench = Bench::create();
    bench.adopted();
    let server: Server = bench.serve(&["--drill", "main:errno=ENOLINK,rate=1,on=read"]);
    let mut nbd = server.client();
    let mut bytes = vec![0; 4096];
    let failed = nbd.read(0, &mut bytes).map_or(true, |bad| !bad.is_empty());
    assert!(failed, "a read through a broken cable");
    let status = bench.status();
    assert_eq!(status["table"]["entries"], 0, "{status}");
    bench.tell(&["drill", "main", "off"]);
    bench.tell(&["resume"]);
    read(&mut nbd, 0, 4096);
    assert_eq!(bench.status()["table"]["entries"], 0);
    server.terminate();
}

#[test]
fn with_a_volatile_cache_a_kill_is_a_power_cut_and_a_stop_is_none() {
    let bench = Bench::create();
    let disk = bench.adopted();
    let drill = ["--drill", "main:volatile-cache=1M", "--drill", "spare0:volatile-cache=1M"];
    let server = bench.serve(&drill);
    let mut client = server.client();
    client.write(0, &[1; 64 << 10], false).unwrap();
    client.flush().unwrap();
    for n in 0..16 {
        client.write((1 << 20) + (n << 12), &[2; 4096], false).unwrap();
    }
    assert!(read(&mut client, 1 << 20, 64 << 10).iter().all(|&byte| byte == 2));
    server.kill();
    let left = bench.bytes("main");
    assert!(left[..64 << 10].iter().all(|&byte| byte == 1), "what was flushed is there");
    let range = 1 << 20..(1 << 20) + (64 << 10);
    assert!(left[range.clone()].iter().zip(&disk[range.clone()]).any(|(a, b)| a == b && *b != 2));

    let server = bench.serve(&drill);
    let mut client = server.client();
    client.write(range.start as u64, &[3; 64 << 10], false).unwrap();
    server.terminate();
    assert!(bench.bytes("main")[range].iter().all(|&byte| byte == 3), "a clean stop flushes");
    bench
        .run(&["serve", "main", "--spare", "spare", "--drill", drill[1], "--drill", "main:volatile-cache=1K"])
        .refused(2, &["main", "once per device"]);
}
