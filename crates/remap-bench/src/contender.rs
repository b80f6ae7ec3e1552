//! Who is measured, and by which command line.
//!
//! Invariant: on a disk only servers that write through to it are rivals; those that cannot are shown, not compared.

use std::process::Command;

use crate::ground::{EXPORT, Ground, Place};
use crate::needs;

/// Why one takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// dm-remap, without or with remaps.
    Ours,
    /// What a user would pick instead.
    Rival,
    /// A rival that cannot do without the page cache: on a disk its figures are those of memory.
    Cached,
    /// Nobody's choice: how fast it could be.
    Bar,
}

/// One that is measured.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) part: Part,
    /// Its command line; `None`: no server, the load runs on the file itself.
    pub(crate) serve: Option<fn(&Ground) -> anyhow::Result<Command>>,
}

/// A rival that is not installed.
pub(crate) struct Missing {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

struct Rival {
    name: &'static str,
    program: &'static str,
    package: &'static str,
    /// It can do without the page cache.
    direct: bool,
    serve: fn(&Ground) -> anyhow::Result<Command>,
}

const RIVALS: [Rival; 4] = [
    Rival { name: "nbdkit file", program: "nbdkit", package: "nbdkit", direct: false, serve: nbdkit },
    Rival { name: "qemu-nbd", program: "qemu-nbd", package: "qemu-utils", direct: true, serve: qemu_nbd },
    Rival {
        name: "qemu-storage-daemon",
        program: "qemu-storage-daemon",
        package: "qemu-system-common",
        direct: true,
        serve: storage_daemon,
    },
    Rival {
        name: "nbd-server",
        program: "nbd-server",
        package: "nbd-server",
        direct: false,
        serve: nbd_server,
    },
];

/// Name of our volume without remaps.
pub(crate) const CLEAN: &str = "dm-remap, 0 remaps";
/// Name of the server that does nothing else.
pub(crate) const FLOOR: &str = "floor";

/// Name of our volume with so many.
pub(crate) fn remapped(remaps: u64) -> String {
    format!("dm-remap, {remaps} remaps")
}

/// All that can be measured here, and who cannot.
pub(crate) fn all(ground: &Ground) -> (Vec<Contender>, Vec<Missing>) {
    let mut here = vec![
        Contender { name: CLEAN.to_owned(), part: Part::Ours, serve: Some(|g| Ok(g.serve("clean"))) },
        Contender {
            name: remapped(ground.remaps),
            part: Part::Ours,
            serve: Some(|g| Ok(g.serve("remapped"))),
        },
    ];
    let mut missing = Vec::new();
    for rival in RIVALS {
        if needs::find(rival.program).is_none() {
            missing.push(Missing { name: rival.name, package: rival.package });
            continue;
        }
        let cached = ground.place == Place::Disk && !rival.direct;
        let part = if cached { Part::Cached } else { Part::Rival };
        here.push(Contender { name: rival.name.to_owned(), part, serve: Some(rival.serve) });
    }
    if ground.place == Place::Tmpfs {
        here.push(Contender { name: FLOOR.to_owned(), part: Part::Bar, serve: Some(floor) });
    }
    here.push(Contender { name: "no server".to_owned(), part: Part::Bar, serve: None });
    (here, missing)
}

fn floor(ground: &Ground) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor").arg(ground.socket()).arg(ground.main());
    Ok(command)
}

fn nbdkit(ground: &Ground) -> anyhow::Result<Command> {
    let mut command = needs::command("nbdkit", "nbdkit")?;
    command.args(["--foreground", "--unix"]).arg(ground.socket()).arg("file").arg(ground.main());
    Ok(command)
}

fn qemu_nbd(ground: &Ground) -> anyhow::Result<Command> {
    let mut command = needs::command("qemu-nbd", "qemu-utils")?;
    command.args(["--persistent", "--shared=0", "--format=raw", "--aio=io_uring", "-x", EXPORT]);
    if ground.place == Place::Disk {
        command.arg("--cache=none");
    }
    command.arg("--socket").arg(ground.socket()).arg(ground.main());
    Ok(command)
}

fn storage_daemon(ground: &Ground) -> anyhow::Result<Command> {
    let direct = if ground.place == Place::Disk { ",cache.direct=on" } else { "" };
    let mut command = needs::command("qemu-storage-daemon", "qemu-system-common")?;
    let file = format!("driver=file,node-name=f,aio=io_uring,filename={}{direct}", ground.main().display());
    let socket = format!("addr.type=unix,addr.path={},max-connections=0", ground.socket().display());
    let export = format!("nbd,id=e,node-name=f,name={EXPORT},writable=on");
    command.args(["--blockdev", &file, "--nbd-server", &socket, "--export", &export]);
    Ok(command)
}

fn nbd_server(ground: &Ground) -> anyhow::Result<Command> {
    let config = ground.path("nbd-server.conf");
    // It wants a TCP port beside the socket, on this machine only.
    let text = format!(
        "[generic]\n unixsock = {}\n listenaddr = 127.0.0.1\n port = {}\n[{EXPORT}]\n exportname = {}\n flush = true\n",
        ground.socket().display(),
        free_port()?,
        ground.main().display()
    );
    std::fs::write(&config, text)?;
    let mut command = needs::command("nbd-server", "nbd-server")?;
    // In the foreground it would take one client only.
    command.arg("-C").arg(&config).arg("-p").arg(ground.pid_file());
    Ok(command)
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
