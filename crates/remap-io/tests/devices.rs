//! Opening and identifying files and devices, and faults that only a real kernel makes. Most need root.
#![allow(missing_docs)]

mod support;

use std::time::Duration;

use remap_core::op::Fault;
use remap_io::{Device, Direct, IoKind, IoQueue, OpenError, OpenOptions};
use support::{Loop, Mounted, PATIENT, backends, file, filled, is_root, op, read, run, tool, wait_one};

const WRITE: IoKind = IoKind::Write { fua: false };

fn options(write: bool, exclusive: bool) -> OpenOptions {
    OpenOptions { write, exclusive, ..OpenOptions::default() }
}

#[test]
fn things_that_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Device::open(&folder.path().join(name), &options(false, false)).unwrap_err();
    assert!(matches!(open("nothing"), OpenError::NotFound { .. }));
    assert!(matches!(open(""), OpenError::WrongKind { found: "directory", .. }));
    std::fs::write(folder.path().join("empty"), "").unwrap();
    assert!(matches!(open("empty"), OpenError::TooSmall { size: 0, .. }));
    let error = Device::open("/dev/null".as_ref(), &options(false, false)).unwrap_err();
    assert!(error.to_string().contains("character device"), "{error}");
}

#[test]
fn writers_of_a_file_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [0; 4096]).unwrap();
    let first = Device::open(&path, &options(true, true)).unwrap();
    assert!(matches!(Device::open(&path, &options(true, true)), Err(OpenError::InUse { .. })));
    assert!(matches!(Device::open(&path, &options(false, true)), Err(OpenError::InUse { .. })));
    Device::open(&path, &options(false, false)).unwrap();
    drop(first);
    let readers = [(); 2].map(|()| Device::open(&path, &options(false, true)).unwrap());
    assert!(matches!(Device::open(&path, &options(true, true)), Err(OpenError::InUse { .. })));
    assert!(readers[0].limits().read_only);
}

#[test]
fn direct_where_it_works_buffered_where_not() {
    for root in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
        let Ok(folder) = tempfile::tempdir_in(root) else { continue };
        let (path, device) = file(folder.path(), 1 << 20, Direct::Auto);
        let limits = device.limits();
        assert_eq!(limits.direct, limits.direct_refused.is_none(), "{limits:?}");
        assert!(matches!(limits.logical_block, 512..=4096));
        let always = Device::open(&path, &OpenOptions { direct: Direct::Always, ..OpenOptions::default() });
        assert_eq!(always.is_ok(), limits.direct);
        let never =
            Device::open(&path, &OpenOptions { direct: Direct::Never, ..OpenOptions::default() }).unwrap();
        assert!(!never.limits().direct && never.limits().direct_refused.is_none());
        device.write_at(4096, &filled(4096, 5)).unwrap();
        device.flush().unwrap();
        assert_eq!(read(&device, 4096, 4096), vec![5; 4096]);
    }
}

#[test]
fn a_file_system_is_the_identity_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, blank) = file(folder.path(), 4 << 20, Direct::Auto);
    assert_eq!(blank.identity().content_uuid, None);
    assert_eq!((blank.identity().size, blank.size()), (4 << 20, 4 << 20));
    drop(blank);
    let uuid = "0b5c9de2-7b35-4f0c-9a3e-2f1b6d8c7a90";
    if tool("mkfs.ext4", &["-q", "-F", "-U", uuid, path.to_str().unwrap()]).is_none() {
        return;
    }
    let device = Device::open(&path, &options(false, false)).unwrap();
    assert_eq!(device.identity().content_uuid.as_deref(), Some("ext:0b5c9de2-7b35-4f0c-9a3e-2f1b6d8c7a90"));
    assert_eq!((&device.identity().wwn, &device.identity().serial), (&None, &None));
}

#[test]
fn a_loop_device_with_large_blocks() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, backing) = file(folder.path(), (8 << 20) + 4096, Direct::Auto);
    let Some(disk) = Loop::over(&path, &["--sector-size", "4096", "--direct-io=on"]) else { return };
    let device = Device::open(&disk.0, &options(true, true)).unwrap();
    assert!(device.is_block_device() && device.limits().direct);
    assert_eq!((device.limits().logical_block, device.size()), (4096, (8 << 20) + 4096));
    assert!(!device.limits().read_only);
    let busy = Device::open(&disk.0, &options(false, true)).unwrap_err();
    assert!(matches!(busy, OpenError::InUse { .. }), "{busy}");
    Device::open(&disk.0, &options(false, false)).unwrap();

    let last = device.size() - 4096;
    device.write_at(last, &filled(4096, 6)).unwrap();
    device.flush().unwrap();
    assert_eq!(read(&backing, last, 4096), vec![6; 4096]);
    for backend in backends() {
        let mut queue = IoQueue::open(backend, 4).unwrap();
        for may_unmap in [true, false] {
            device.write_at(0, &filled(1 << 20, 0xee)).unwrap();
            let kind = IoKind::WriteZeroes { fua: true, may_unmap };
            assert_eq!(run(&mut queue, op(&device, kind, 4096, 512 << 10, None), PATIENT), Ok(()));
            let bytes = read(&device, 0, 1 << 20);
            assert!(bytes[4096..4096 + (512 << 10)].iter().all(|&b| b == 0));
            assert!(bytes[..4096].iter().chain(&bytes[4096 + (512 << 10)..]).all(|&b| b == 0xee));
        }
        // Several at once: the ring has its discards done by a thread.
        for tag in 0..8 {
            queue.submit(tag, op(&device, IoKind::Discard, tag * 4096, 4096, None), PATIENT);
        }
        let mut tags: Vec<u64> =
            (0..8).map(|_| wait_one(&mut queue)).map(|(tag, done)| (tag, done.unwrap()).0).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..8).collect::<Vec<_>>());
        let mut buf = filled(4096, 1);
        let misaligned = op(&device, WRITE, 512, 4096, Some(&mut buf));
        assert_eq!(run(&mut queue, misaligned, PATIENT), Err(Fault::Unsupported));
    }
}

#[test]
fn a_mounted_or_read_only_device_is_refused_with_the_reason() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, backing) = file(folder.path(), 8 << 20, Direct::Auto);
    drop(backing);
    if tool("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]).is_none() {
        return;
    }
    let Some(disk) = Loop::over(&path, &[]) else { return };
    let point = folder.path().join("mnt point");
    {
        let Some(_mounted) = Mounted::on(&point, &[disk.0.to_str().unwrap()]) else { return };
        let error = Device::open(&disk.0, &options(true, true)).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains(point.to_str().unwrap()), "{error}");
    }
    drop(disk);
    let Some(sealed) = Loop::over(&path, &["--read-only"]) else { return };
    let error = Device::open(&sealed.0, &options(true, false)).unwrap_err();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    assert!(Device::open(&sealed.0, &options(false, false)).unwrap().limits().read_only);
}

/// A loop device whose file has shrunk gives EIO; once it was told, it has no size, as a disk that was pulled out.
#[test]
fn a_device_without_a_size_is_gone() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, backing) = file(folder.path(), 8 << 20, Direct::Auto);
    drop(backing);
    let Some(disk) = Loop::over(&path, &[]) else { return };
    let device = Device::open(&disk.0, &options(true, false)).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let mut buf = filled(4096, 1);
    assert_eq!(device.read_at(1 << 20, &mut buf), Err(Fault::Unknown));
    if tool("losetup", &["--set-capacity", disk.0.to_str().unwrap()]).is_none() {
        return;
    }
    for backend in backends() {
        let mut queue = IoQueue::open(backend, 4).unwrap();
        let read = op(&device, IoKind::Read, 1 << 20, 4096, Some(&mut buf));
        assert_eq!(run(&mut queue, read, PATIENT), Err(Fault::Gone));
        assert_eq!(
            run(&mut queue, op(&device, WRITE, 1 << 20, 4096, Some(&mut buf)), PATIENT),
            Err(Fault::Gone)
        );
    }
    assert!(matches!(
        Device::open(&disk.0, &options(false, false)),
        Err(OpenError::TooSmall { size: 0, .. })
    ));
}

/// On a full backing store, a buffered write succeeds and the flush fails; the kernel would call the next flush good.
#[test]
fn after_a_failed_flush_through_the_page_cache_none_succeeds() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(mounted) = Mounted::on(&folder.path().join("small"), &["-t", "tmpfs", "-o", "size=1m", "none"])
    else {
        return;
    };
    let (path, full) = file(&mounted.0, 8 << 20, Direct::Auto);
    {
        let Some(disk) = Loop::over(&path, &[]) else { return };
        let buffered = OpenOptions { direct: Direct::Never, ..options(true, true) };
        let device = Device::open(&disk.0, &buffered).unwrap();
        device.write_at(0, &filled(4 << 20, 1)).unwrap();
        let first = device.flush().unwrap_err();
        assert!(matches!(first, Fault::Gone | Fault::Unknown), "{first:?}");
        device.write_at(0, &filled(4096, 2)).unwrap();
        assert_eq!(device.flush(), Err(first));
        assert_eq!(device.clone().flush(), Err(first));
        for backend in backends() {
            // Durable at once, or an error at once.
            let mut queue = IoQueue::open(backend, 1).unwrap();
            let mut buf = filled(2 << 20, 1);
            let write = op(&device, IoKind::Write { fua: true }, 4 << 20, 2 << 20, Some(&mut buf));
            assert!(run(&mut queue, write, PATIENT).is_err());
        }
    }
    // The file itself is a growing back end: it has no room, which blames nobody's medium.
    assert_eq!(full.write_at(4 << 20, &filled(4 << 20, 1)), Err(Fault::NoSpace));
}

/// A frozen file system holds every write in the kernel until it is thawed.
#[test]
fn a_hanging_write_keeps_its_memory_and_its_range() {
    if !is_root() {
        return;
    }
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        if tool("mkfs.ext4", &["-q", "-F", "-b", "4096", image.to_str().unwrap()]).is_none() {
            return;
        }
        let Some(disk) = Loop::over(&image, &[]) else { return };
        let Some(mounted) = Mounted::on(&folder.path().join("mnt"), &[disk.0.to_str().unwrap()]) else {
            return;
        };
        let (_path, device) = file(&mounted.0, 1 << 20, Direct::Auto);
        device.write_at(0, &filled(1 << 20, 1)).unwrap();
        device.flush().unwrap();
        let mut queue = IoQueue::open(backend, 2).unwrap();
        let mut other = IoQueue::open(backend, 2).unwrap();
        let point = mounted.0.to_str().unwrap();
        if tool("fsfreeze", &["--freeze", point]).is_none() {
            return;
        }
        let brief = Duration::from_millis(20);
        let mut late = filled(8192, 2);
        let outcome = run(&mut queue, op(&device, WRITE, 8192, 8192, Some(&mut late)), brief);
        let held = !late.is_unique();
        let mut newer = filled(4096, 3);
        let overlapping = run(&mut other, op(&device, WRITE, 12288, 4096, Some(&mut newer)), brief);
        let kept_back = newer.is_unique();
        let over_it = device.read_at(8192, &mut newer);
        let beside = device.read_at(16384, &mut newer);
        tool("fsfreeze", &["--unfreeze", point]);
        assert_eq!(
            (outcome, overlapping, over_it),
            (Err(Fault::Timeout), Err(Fault::Timeout), Err(Fault::Timeout))
        );
        assert_eq!(beside, Ok(()));
        assert!(held, "the kernel could still read it");
        assert!(kept_back, "the newer write was handed to the kernel");
        assert_eq!(queue.in_flight(), 0);
        // Once the kernel is done the range is free again, and the newer bytes stay.
        while run(&mut queue, op(&device, WRITE, 12288, 4096, Some(&mut newer)), PATIENT)
            == Err(Fault::Timeout)
        {
            queue.wait(&mut [], Some(Duration::from_millis(1))).unwrap();
        }
        assert!(late.is_unique());
        assert_eq!(read(&device, 12288, 4096), newer.bytes());
        assert_ne!(newer.bytes()[0], 2);
    }
}

#[test]
fn a_queue_dropped_while_the_kernel_hangs_frees_nothing_it_must_not() {
    if !is_root() {
        return;
    }
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        if tool("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).is_none() {
            return;
        }
        let Some(disk) = Loop::over(&image, &[]) else { return };
        let Some(mounted) = Mounted::on(&folder.path().join("mnt"), &[disk.0.to_str().unwrap()]) else {
            return;
        };
        let (_path, device) = file(&mounted.0, 1 << 20, Direct::Auto);
        let point = mounted.0.to_str().unwrap();
        if tool("fsfreeze", &["--freeze", point]).is_none() {
            return;
        }
        let mut late = filled(4096, 2);
        let mut queue = IoQueue::open(backend, 2).unwrap();
        let outcome =
            run(&mut queue, op(&device, WRITE, 0, 4096, Some(&mut late)), Duration::from_millis(20));
        drop(queue);
        let held = !late.is_unique();
        let over_it = device.read_at(0, &mut filled(4096, 0));
        tool("fsfreeze", &["--unfreeze", point]);
        assert_eq!((outcome, over_it), (Err(Fault::Timeout), Err(Fault::Timeout)));
        assert!(held, "the memory was given back although the kernel could still read it");
    }
}
