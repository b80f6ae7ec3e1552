//! Queues, on files, with both back ends.
#![allow(missing_docs)]

mod support;

use std::collections::HashSet;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use remap_core::op::Fault;
use remap_io::{Audience, Buf, Device, Direct, Drill, IoKind, IoQueue, OpenOptions, Wake, Watch};
use support::{PATIENT, backends, file, filled, op, places, read, run, wait_one};

const WRITE: IoKind = IoKind::Write { fua: false };

#[test]
fn many_operations_are_each_answered_once() {
    for backend in backends() {
        let each_way = |place| [Direct::Auto, Direct::Never].map(|direct| (place, direct));
        for (place, direct) in places().into_iter().flat_map(each_way) {
            let folder = tempfile::tempdir_in(place).unwrap();
            let (path, device) = file(folder.path(), 1 << 20, direct);
            let mut queue = IoQueue::open(backend, 4).unwrap();
            assert_eq!(queue.backend(), backend);
            let mut buffers: Vec<Buf> = (0..200_u8).map(|n| filled(4096, n)).collect();
            for (tag, buf) in (0_u64..).zip(&mut buffers) {
                let kind = IoKind::Write { fua: tag % 3 == 0 };
                queue.submit(tag, op(&device, kind, tag * 4096, 4096, Some(buf)), PATIENT);
            }
            assert_eq!(queue.in_flight(), 200);
            let mut tags = HashSet::new();
            while queue.in_flight() > 0 {
                let (tag, outcome) = wait_one(&mut queue);
                assert_eq!(outcome, Ok(()));
                assert!(tags.insert(tag) && tag < 200);
            }
            assert_eq!(tags.len(), 200);
            assert!(queue.next().is_none());
            assert!(buffers.iter().all(Buf::is_unique));
            assert_eq!(run(&mut queue, op(&device, IoKind::Flush, 0, 0, None), PATIENT), Ok(()));

            let mut back = Buf::alloc(200 * 4096).unwrap();
            let outcome = run(&mut queue, op(&device, IoKind::Read, 0, 200 * 4096, Some(&mut back)), PATIENT);
            assert_eq!(outcome, Ok(()));
            let on_disk = std::fs::read(&path).unwrap();
            for (n, chunk) in back.bytes().chunks(4096).enumerate() {
                assert!(chunk.iter().all(|&b| usize::from(b) == n), "block {n}");
            }
            assert_eq!(&on_disk[..200 * 4096], back.bytes());
        }
    }
}

#[test]
fn a_part_of_a_buffer_stays_in_its_part() {
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (path, whole) = file(folder.path(), 1 << 20, Direct::Auto);
        whole.write_at(8192, &filled(4096, 9)).unwrap();
        let options = OpenOptions { slice: Some((8192, Some(4096))), ..OpenOptions::default() };
        let slice = Device::open(&path, &options).unwrap();
        assert_eq!(slice.size(), 4096);
        let mut queue = IoQueue::open(backend, 1).unwrap();
        let mut buf = filled(4096, 1);
        let part = remap_io::DeviceOp {
            buf: Some(buf.slice(512..1024)),
            ..op(&slice, IoKind::Read, 3584, 512, None)
        };
        assert_eq!(run(&mut queue, part, PATIENT), Ok(()));
        assert!(buf.bytes()[512..1024].iter().all(|&b| b == 9));
        assert!(buf.bytes()[..512].iter().chain(&buf.bytes()[1024..]).all(|&b| b == 1));
    }
}

#[test]
fn zeroes_and_discards_read_as_zeroes() {
    for backend in backends() {
        // tmpfs knows no ZERO_RANGE: the fall-back is used there.
        for root in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
            let Ok(folder) = tempfile::tempdir_in(root) else { continue };
            let (path, device) = file(folder.path(), 2 << 20, Direct::Auto);
            let mut queue = IoQueue::open(backend, 4).unwrap();
            for may_unmap in [false, true] {
                for fua in [false, true] {
                    device.write_at(0, &filled(2 << 20, 0xee)).unwrap();
                    let kind = IoKind::WriteZeroes { fua, may_unmap };
                    assert_eq!(run(&mut queue, op(&device, kind, 4096, 700 << 10, None), PATIENT), Ok(()));
                    let bytes = std::fs::read(&path).unwrap();
                    assert_eq!(bytes.len(), 2 << 20);
                    assert!(bytes[4096..4096 + (700 << 10)].iter().all(|&b| b == 0));
                    assert!(bytes[..4096].iter().chain(&bytes[4096 + (700 << 10)..]).all(|&b| b == 0xee));
                }
            }
            assert_eq!(run(&mut queue, op(&device, IoKind::Discard, 0, 4096, None), PATIENT), Ok(()));
            assert_eq!(read(&device, 0, 4096), vec![0; 4096]);
        }
    }
}

#[test]
fn malformed_operations_are_refused() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, device) = file(folder.path(), 1 << 20, Direct::Auto);
    let read_only = Device::open(&path, &OpenOptions::default()).unwrap();
    for backend in backends() {
        let mut queue = IoQueue::open(backend, 4).unwrap();
        let mut buf = filled(4096, 1);
        let wrong = [
            op(&device, WRITE, 1 << 20, 4096, Some(&mut buf)),
            op(&device, WRITE, (1 << 20) - 512, 4096, Some(&mut buf)),
            op(&device, WRITE, u64::MAX - 511, 4096, Some(&mut buf)),
            op(&device, WRITE, 100, 4096, Some(&mut buf)),
            op(&device, IoKind::Read, 0, 4096, None),
            op(&device, IoKind::Discard, 0, 0, None),
            op(&device, IoKind::WriteZeroes { fua: false, may_unmap: true }, 0, 100, None),
            remap_io::DeviceOp { len: 8192, ..op(&device, WRITE, 0, 4096, Some(&mut buf)) },
            op(&read_only, WRITE, 0, 4096, Some(&mut buf)),
        ];
        for op in wrong {
            let text = format!("{op:?}");
            assert_eq!(run(&mut queue, op, PATIENT), Err(Fault::Unsupported), "{text}");
        }
        assert!(buf.is_unique());
    }
    assert!(std::fs::read(path).unwrap().iter().all(|&b| b == 0));
}

#[test]
fn a_file_that_shrank_is_gone() {
    for backend in backends() {
        for direct in [Direct::Auto, Direct::Never] {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let (path, device) = file(folder.path(), 1 << 20, direct);
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap();
            let mut queue = IoQueue::open(backend, 4).unwrap();
            for (offset, len, expected) in [
                (0, 4096, Ok(())),
                (0, 16384, Err(Fault::Gone)),
                (4096, 4096, Err(Fault::Gone)),
                (65536, 4096, Err(Fault::Gone)),
            ] {
                let mut buf = Buf::alloc(16384).unwrap();
                let outcome =
                    run(&mut queue, op(&device, IoKind::Read, offset, len, Some(&mut buf)), PATIENT);
                assert_eq!(outcome, expected, "{offset} {len} {direct:?}");
            }
        }
    }
}

#[test]
fn watched_descriptors_end_the_wait() {
    for backend in backends() {
        let mut queue = IoQueue::open(backend, 4).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (other, _keep) = std::io::pipe().unwrap();
        let mut look = |read: bool, timeout| {
            let mut watches = [Watch::on(other.as_fd(), true, false), Watch::on(reader.as_fd(), read, false)];
            queue.wait(&mut watches, timeout).unwrap();
            assert!(!watches[0].ready_read && !watches[0].ready_write);
            watches[1].ready_read
        };
        assert!(!look(true, Some(Duration::ZERO)));
        assert!(!look(true, Some(Duration::from_millis(1))));
        writer.write_all(b"x").unwrap();
        assert!(!look(false, Some(Duration::from_millis(1))), "nobody asks any more");
        assert!(look(true, None));
        assert!(look(true, None), "readiness is a level, not an edge");
        rustix::io::read(&reader, &mut [0; 8]).unwrap();
        assert!(!look(true, Some(Duration::from_millis(1))));
        drop(writer);
        assert!(look(true, None), "a hang-up");

        let (reader, writer) = std::io::pipe().unwrap();
        let mut watches = [Watch::on(writer.as_fd(), false, true)];
        queue.wait(&mut watches, None).unwrap();
        assert!(watches[0].ready_write && !watches[0].ready_read);
        drop(reader);
        queue.wait(&mut watches, None).unwrap();
        assert!(watches[0].ready_write && watches[0].ready_read, "an error sets both");
        queue.forget(writer.as_fd());
    }
}

#[test]
fn a_descriptor_that_takes_the_number_of_another_is_watched_anew() {
    for backend in backends() {
        let mut queue = IoQueue::open(backend, 4).unwrap();
        let mut keep = Vec::new();
        for _ in 0..20 {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let mut watches = [Watch::on(reader.as_fd(), true, false)];
            queue.wait(&mut watches, Some(Duration::ZERO)).unwrap();
            assert!(!watches[0].ready_read);
            writer.write_all(b"x").unwrap();
            queue.wait(&mut watches, None).unwrap();
            assert!(watches[0].ready_read);
            rustix::io::read(&reader, &mut [0; 1]).unwrap();
            queue.wait(&mut watches, Some(Duration::ZERO)).unwrap();
            queue.forget(reader.as_fd());
            keep.push(writer);
        }
    }
}

#[test]
fn another_thread_wakes_the_queue() {
    for backend in backends() {
        let mut queue = IoQueue::open(backend, 4).unwrap();
        let wake = Wake::create().unwrap();
        for _ in 0..100 {
            let waker = Arc::clone(&wake);
            let thread = std::thread::spawn(move || waker.wake());
            let mut watches = [Watch::on(wake.as_fd(), true, false)];
            while !watches[0].ready_read {
                queue.wait(&mut watches, None).unwrap();
            }
            thread.join().unwrap();
            wake.clear();
            queue.wait(&mut watches, Some(Duration::ZERO)).unwrap();
            assert!(!watches[0].ready_read);
        }
    }
}

#[test]
fn drills_fail_delay_and_heal() {
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (path, plain) = file(folder.path(), 1 << 20, Direct::Auto);
        let drill = Arc::new(Drill::parse("bad=sectors:8-9,errno=ENODATA,heal,latency=1ms").unwrap());
        let device = plain.clone().with_drill(Arc::clone(&drill));
        let mut queue = IoQueue::open(backend, 2).unwrap();
        let mut buf = filled(8192, 3);
        let mut go =
            |kind, offset, len| run(&mut queue, op(&device, kind, offset, len, Some(&mut buf)), PATIENT);
        assert_eq!(go(IoKind::Read, 0, 4096), Ok(()));
        assert_eq!(go(IoKind::Read, 0, 8192), Err(Fault::Medium));
        assert_eq!(go(IoKind::Read, 4096, 512), Err(Fault::Medium));
        assert_eq!(go(WRITE, 4096, 512), Ok(()));
        assert_eq!(go(IoKind::Read, 4096, 512), Ok(()));
        assert_eq!(go(IoKind::Read, 4608, 512), Err(Fault::Medium));
        let zero = IoKind::WriteZeroes { fua: false, may_unmap: false };
        assert_eq!(run(&mut queue, op(&device, zero, 4096, 4096, None), PATIENT), Ok(()));
        assert_eq!(drill.bad_sectors(), 0);
        assert_eq!((drill.counts().failed, drill.counts().delayed), (3, 7));

        // The last one stacked is asked first; a gone device is gone for all.
        let gone = Arc::new(Drill::parse("gone-after=0ops").unwrap());
        let all = device.with_drill(Arc::clone(&gone));
        assert_eq!(run(&mut queue, op(&all, WRITE, 0, 4096, Some(&mut buf)), PATIENT), Err(Fault::Gone));
        assert_eq!(run(&mut queue, op(&all, IoKind::Flush, 0, 0, None), PATIENT), Err(Fault::Unknown));
        gone.set_enabled(false);
        assert_eq!(run(&mut queue, op(&all, IoKind::Flush, 0, 0, None), PATIENT), Ok(()));
        assert_eq!(all.read_at(0, &mut filled(512, 0)), Ok(()));
        assert_eq!(std::fs::File::open(path).unwrap().metadata().unwrap().len(), 1 << 20);
    }
}

#[test]
fn every_queue_hears_of_a_flush_that_failed_until_its_audience_was_told() {
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (_, plain) = file(folder.path(), 1 << 20, Direct::Auto);
        let drill = Arc::new(Drill::parse("rate=1,on=flush,errno=EIO").unwrap());
        let device = plain.with_drill(Arc::clone(&drill));
        let queue = |audience: Option<Audience>| {
            let mut queue = IoQueue::open(backend, 2).unwrap();
            audience.into_iter().for_each(|audience| queue.hears_of_failed_flushes(audience));
            queue
        };
        let [mut own, mut owner, mut one, mut other] =
            [None, Some(Audience::Owner), Some(Audience::Clients), Some(Audience::Clients)].map(queue);
        let flush = |queue: &mut IoQueue| run(queue, op(&device, IoKind::Flush, 0, 0, None), PATIENT);
        assert_eq!(flush(&mut owner), Err(Fault::Unknown));
        drill.set_enabled(false);
        assert_eq!(flush(&mut own), Ok(()), "asked to hear of its own only");
        assert_eq!(flush(&mut owner), Ok(()));
        // Two at once, for two clients: both hear, and so does one that begins before either was answered.
        for queue in [&mut one, &mut other] {
            assert_eq!([flush(queue), flush(queue)], [Err(Fault::Unknown); 2]);
            queue.clients_were_told();
            assert_eq!(flush(queue), Ok(()));
        }
        assert_eq!(flush(&mut queue(Some(Audience::Clients))), Ok(()), "clients were told before it opened");
    }
}

#[test]
fn an_operation_held_back_beyond_its_deadline_never_happens() {
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (path, plain) = file(folder.path(), 1 << 20, Direct::Auto);
        let slow = plain.clone().with_drill(Arc::new(Drill::parse("latency=1000s").unwrap()));
        let mut queue = IoQueue::open(backend, 2).unwrap();
        let mut held = filled(4096, 7);
        let outcome = run(&mut queue, op(&slow, WRITE, 0, 4096, Some(&mut held)), Duration::from_millis(5));
        assert_eq!(outcome, Err(Fault::Timeout));
        assert!(held.is_unique(), "the kernel never had it");
        assert_eq!(queue.in_flight(), 0);
        // It leaves no zombie: the same range can be used at once.
        assert_eq!(run(&mut queue, op(&plain, WRITE, 0, 4096, Some(&mut held)), PATIENT), Ok(()));
        let mut byte = [0];
        std::fs::File::open(path).unwrap().read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [7]);
        let blocking = slow.with_deadline(Duration::from_millis(5));
        assert_eq!(blocking.read_at(0, &mut held), Err(Fault::Timeout));
        assert_eq!(blocking.flush(), Err(Fault::Timeout));
    }
}

#[test]
fn a_dropped_queue_gives_the_memory_back() {
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (_path, device) = file(folder.path(), 8 << 20, Direct::Auto);
        let mut buffers: Vec<Buf> = (0..64).map(|n| filled(65536, n)).collect();
        let mut queue = IoQueue::open(backend, 8).unwrap();
        for (tag, buf) in (0_u64..).zip(&mut buffers) {
            queue.submit(tag, op(&device, WRITE, tag * 65536, 65536, Some(buf)), PATIENT);
        }
        queue.wait(&mut [], None).unwrap();
        drop(queue);
        assert!(buffers.iter().all(Buf::is_unique));
    }
}

#[test]
fn the_environment_forces_threads() {
    // In a process of its own, because the environment is the process's.
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_says_its_backend", "--nocapture", "--include-ignored"])
        .env("DM_REMAP_IO", "threads")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("backend: Threads"), "{text}");
}

#[test]
#[ignore = "run by the_environment_forces_threads"]
fn child_says_its_backend() {
    println!("backend: {:?}", IoQueue::open(remap_io::IoBackend::Auto, 1).unwrap().backend());
}
