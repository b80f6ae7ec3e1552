//! Taking sockets over from a service manager, in a process of its own.

use std::os::fd::AsRawFd;
use std::process::Command;

const CHILD: &str = "REMAP_NBD_ACTIVATION_CHILD";

/// The child's part; without the parent's sign there is nothing to test.
#[test]
fn child_takes_the_descriptor_once() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let fds = remap_nbd::listen_fds();
    assert_eq!(fds.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), [3]);
    assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(remap_nbd::listen_fds().is_empty(), "they are taken once");
}

fn child(pid: &str) -> std::process::ExitStatus {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "export {CHILD}=1 LISTEN_FDS=1 LISTEN_PID={pid}; exec \"$0\" --exact child_takes_the_descriptor_once 3</dev/null"
    );
    Command::new("sh").arg("-c").arg(script).arg(program).output().unwrap().status
}

#[test]
fn descriptors_are_taken_only_by_the_process_that_is_meant() {
    assert!(child("$$").success());
    assert!(!child("1").success(), "nothing was there for this process");
}
