//! One run of a guest: started, listened to, ended.
//!
//! Invariant: a guest ends by itself or at its limit, and nothing of it is left behind. How it ended is known: a script's status comes from
//! the guest's report, never from the machine's.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Job;
use super::disks::{Bus, Disk};
use super::image;
use super::kernels::{Booted, Machine};
use super::tree::Tree;
use crate::run;

/// On this disk the guest leaves its report: an archive of tar.
pub(super) const REPORT: &str = "report=1G";

/// What the kernel had to say, and the machine.
pub(super) const CONSOLE: &str = "console.log";
/// All that the script printed.
pub(super) const OUTPUT: &str = "output.log";

/// Without what a kernel does beside, of no use to a test: it checks its ciphers at each boot, clears each page that it gives out, watches over programs.
const QUICKER: &str = " cryptomgr.notests initcall_blacklist=init_encrypted,crypto_kdf108_init,jent_mod_init \
                       init_on_alloc=0 apparmor=0 selinux=0 audit=0";

/// What a guest prints when its first process has made everything ready.
const BEGUN: &str = "# the guest has begun";

/// Longest time until then. It takes 2 to 20 s; a processor whose timer never comes has been seen.
const BEGINS: Duration = Duration::from_secs(180);

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The script ended with this status.
    Script(i32),
    /// The guest stopped before that: a panic, a reset, a power cut.
    Died(String),
    /// It never came as far as the script.
    NeverBegan(String),
    TimeLimit,
}

/// Runs it; `line` gets what the script prints. Disks that are made for it, and the console's log, are in `home`.
///
/// # Errors
/// The guest could not be made or started.
pub(super) fn run(
    job: &Job,
    tree: &Tree,
    kernel: &Booted,
    home: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<End> {
    fs::create_dir_all(home).with_context(|| format!("making {}", home.display()))?;
    let initrd = image::build(job, tree, kernel, home)?;
    let mut disks = Vec::new();
    for disk in &job.disks {
        disks.push((disk, disk.file(home)?));
    }
    let report = disks.last().map(|(_, file)| file.clone()).context("a run without a report")?;
    // An earlier run on the same disks has left its own.
    File::create(&report).and_then(|file| file.set_len(1 << 30)).context("emptying the report")?;
    let machine = match &kernel.machine {
        Machine::Process { preload } => uml(job, kernel, preload, &initrd, &disks)?,
        Machine::Qemu(tree) => qemu(job, tree, kernel, &initrd, &disks, home)?,
    };
    let mut command = run::in_time(job.seconds, &machine);
    let log = |name: &str| {
        let file = home.join(name);
        File::options()
            .create(true)
            .append(true)
            .open(&file)
            .with_context(|| format!("making {}", file.display()))
    };
    let mut printed = log(OUTPUT)?;
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(log(CONSOLE)?)
        .spawn()
        .with_context(|| format!("{command:?} does not start"))?;
    let begun = listen(&mut child, BEGINS, &mut printed, line);
    let status = child.wait().context("waiting for the guest")?;
    let begun = begun.context("writing what the script printed")?;
    fs::remove_file(&initrd).context("removing the guest's first file system")?;
    // What `run` is told to end sooner has run out of time, begun or not.
    if run::ran_out(status) && (begun || job.seconds <= BEGINS.as_secs()) {
        return Ok(End::TimeLimit);
    }
    if !begun {
        return Ok(End::NeverBegan(status.to_string()));
    }
    let said = script_status(&report)?;
    if let (Some(_), Some(out)) = (said, &job.out) {
        fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        let mut tar = Command::new("tar");
        run::output(tar.arg("-xf").arg(&report).arg("-C").arg(out).args([
            "--strip-components=1",
            "--no-same-owner",
            "out",
        ]))
        .context("taking what the guest left in /out")?;
    }
    Ok(said.map_or_else(|| End::Died(status.to_string()), End::Script))
}

/// Takes what the guest prints until it ends; it is ended if it does not begin within `limit`. Did it?
fn listen(
    child: &mut Child,
    limit: Duration,
    printed: &mut dyn Write,
    line: &mut dyn FnMut(&str),
) -> std::io::Result<bool> {
    let Some(pipe) = child.stdout.take() else { return Ok(false) };
    let (tell, begins) = mpsc::channel();
    let process = child.id().to_string();
    thread::scope(|scope| {
        scope.spawn(move || {
            if begins.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // It may have ended just now.
                let _ = Command::new("kill").arg(process).status();
            }
        });
        let mut reader = BufReader::new(pipe);
        let (mut bytes, mut saved, mut begun) = (Vec::new(), Ok(()), false);
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches(['\r', '\n']);
            if text == BEGUN {
                begun = true;
                // Nobody listens any more if that was late.
                let _ = tell.send(());
            } else {
                line(text);
                saved = saved.and(printed.write_all(&bytes));
            }
            bytes.clear();
        }
        // It has ended: there is nothing to wait for.
        drop(tell);
        saved.map(|()| begun)
    })
}

/// The script's status: the first file of the report.
fn script_status(report: &Path) -> Result<Option<i32>> {
    let mut head = [0; 1024];
    File::open(report).and_then(|mut file| file.read_exact(&mut head)).context("reading the report")?;
    let named = head.starts_with(b"status\0");
    let text = String::from_utf8_lossy(&head[512..520]).into_owned();
    Ok(named.then(|| text.lines().next().and_then(|line| line.parse().ok())).flatten())
}

fn qemu(
    job: &Job,
    tree: &Tree,
    kernel: &Booted,
    initrd: &Path,
    disks: &[(&Disk, PathBuf)],
    home: &Path,
) -> Result<Command> {
    let mut command = tree.command("qemu-system-x86_64")?;
    let modules =
        tree.find("usr/lib/x86_64-linux-gnu/qemu").context("the packages of qemu have no modules")?;
    command.env("QEMU_MODULE_DIR", modules);
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        command
            .arg("-L")
            .arg(tree.find(folder).with_context(|| format!("the packages of qemu have no {folder}"))?);
    }
    command.args("-nodefaults -no-user-config -display none -no-reboot -M q35".split(' '));
    // One instruction is one nanosecond, or the host's own clock says how fast the counter runs: the guest would measure it, and on a busy
    // host it would be wrong by far.
    let khz = if job.icount {
        command.args("-cpu max -accel tcg,thread=single -icount shift=0,sleep=off -smp 1".split(' '));
        1_000_000
    } else {
        // Strings of bytes are emulated byte by byte, and each level of page tables costs: a kernel that is told of neither does without.
        command.args("-cpu max,-erms,-fsrm,-la57 -accel tcg,thread=multi -smp".split(' '));
        command.arg(job.cpus.to_string());
        counter_khz()
    };
    command.arg("-m").arg(job.memory.to_string());
    // What qemu itself has to say is appended to the same file.
    command.arg("-chardev").arg(format!("file,id=log,append=on,path={}", home.join(CONSOLE).display()));
    command.args("-serial chardev:log -chardev stdio,id=out,signal=off -serial chardev:out".split(' '));
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    let mut line = format!(
        "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable tsc_early_khz={khz} quiet loglevel=5"
    );
    if !job.icount {
        line.push_str(QUICKER);
    }
    for word in &job.boot {
        line.push(' ');
        line.push_str(word);
    }
    command.arg("-append").arg(line);
    if disks.iter().any(|(disk, _)| disk.bus == Bus::Scsi) {
        command.args(["-device", "virtio-scsi-pci,id=scsi"]);
    }
    for (number, (disk, file)) in disks.iter().enumerate() {
        command.args(disk.for_qemu(number, file));
    }
    Ok(command)
}

fn uml(
    job: &Job,
    kernel: &Booted,
    preload: &Path,
    initrd: &Path,
    disks: &[(&Disk, PathBuf)],
) -> Result<Command> {
    // A panic is an abort; nobody wants a dump of its memory.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c 0; exec \"$0\" \"$@\""]).arg(&kernel.image);
    command.env("LD_PRELOAD", preload);
    command.arg(format!("mem={}M", job.memory)).arg(format!("initrd={}", initrd.display()));
    // The kernel speaks to standard error, the script to standard output.
    command
        .args("root=/dev/ram0 con=null con0=null,fd:2 con1=null,fd:1 ssl=null quiet loglevel=5".split(' '))
        .args(&job.boot);
    for (number, (disk, file)) in disks.iter().enumerate() {
        command.arg(disk.for_uml(number, file)?);
    }
    Ok(command)
}

/// How fast this machine's time stamp counter runs, in kHz, as the kernel found it.
fn counter_khz() -> u32 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("bogomips")).unwrap_or_default();
    let number: f64 = line.trim_start_matches([' ', '\t', ':']).parse().unwrap_or(2000.0);
    // Bogomips are twice the counter's MHz.
    (number * 500.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_begins_with_the_status() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut bytes = vec![0; 4096];
        let said = |bytes: &[u8]| {
            fs::write(file.path(), bytes).expect("a file");
            script_status(file.path()).expect("it can be read")
        };
        assert_eq!(said(&bytes), None);
        bytes[..6].copy_from_slice(b"status");
        bytes[512..515].copy_from_slice(b"42\n");
        assert_eq!(said(&bytes), Some(42));
        bytes[..6].copy_from_slice(b"statue");
        assert_eq!(said(&bytes), None);
    }

    /// Did it begin, what was printed, and whether it ended well.
    fn listened(script: &str, limit: Duration) -> (bool, String, bool) {
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell");
        let (mut printed, mut lines) = (Vec::new(), String::new());
        let begun = listen(&mut child, limit, &mut printed, &mut |line| lines.push_str(line));
        let well = child.wait().expect("an end").success();
        assert_eq!(String::from_utf8_lossy(&printed).replace('\n', ""), lines);
        (begun.expect("room in memory"), lines, well)
    }

    #[test]
    fn a_guest_that_does_not_begin_is_ended() {
        let long = Duration::from_secs(60);
        let begins = format!("echo '{BEGUN}'; echo one; echo two");
        assert_eq!(listened(&begins, long), (true, "onetwo".to_owned(), true));
        assert_eq!(listened("echo one", long), (false, "one".to_owned(), true));
        assert_eq!(listened("exec sleep 60", Duration::from_millis(20)), (false, String::new(), false));
    }
}
