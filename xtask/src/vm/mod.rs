//! Guests under kernels of their own: `cargo xtask vm`. No KVM, no root; see docs/vm.md.
//!
//! Invariant: nothing is installed; what is fetched, built and left over stays below `target`. How a guest ended is never guessed: the
//! script's status, the time limit, and a guest that died are told apart.

mod checks;
mod disks;
mod image;
mod kernels;
mod machine;
mod newc;
mod suite;
mod table;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use self::disks::Disk;
use self::kernels::Booted;
pub(crate) use self::kernels::Kernel;
use self::machine::End;
pub(crate) use self::suite::test;
use self::tree::Tree;

/// Exit status of `vm run` when the guest did not end in time, and when it died.
const OUT_OF_TIME: u8 = 124;
const DIED: u8 = 125;

/// Lines of a log that are shown.
const LINES_SHOWN: usize = 40;

#[derive(Args)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    chore: VmChore,
}

#[derive(Subcommand)]
enum VmChore {
    /// Run one script in a guest; the exit status is the script's, 124 when it ran out of time, 125 when the guest died
    Run(Box<RunArgs>),
    /// Run the suite, or the scripts that are named
    Test(TestArgs),
    /// List the scripts of the suite, and what each needs
    List,
}

#[derive(Args)]
struct RunArgs {
    /// uml (User-mode Linux: boots in 2 s), a series of Debian's kernels (6.1, 6.12), newest, or a release
    #[arg(long, default_value = "uml")]
    kernel: Kernel,
    /// A disk: NAME=SIZE or NAME=FILE, the script's /disk/NAME; then, each after a comma: bus=virtio|scsi|nvme, serial=TEXT, wwn=HEX, read-only,
    /// block=BYTES, bad-read=FIRST[+COUNT], bad-write=FIRST[+COUNT] (sectors that fail), errno=N (61, a medium error; 5, EIO)
    #[arg(long = "disk", value_name = "SPEC")]
    disks: Vec<Disk>,
    /// A module to bring in; modprobe finds it
    #[arg(long = "module", value_name = "FILE.ko")]
    modules: Vec<PathBuf>,
    /// A module of the kernel that guests do not have as a matter of course
    #[arg(long = "kernel-module", value_name = "NAME")]
    more_modules: Vec<String>,
    /// Programs of Debian's packages
    #[arg(long = "program", value_name = "NAME", value_delimiter = ',')]
    programs: Vec<String>,
    /// Packages to take programs from, beside those that are always there
    #[arg(long = "package", value_name = "NAME", value_delimiter = ',')]
    packages: Vec<String>,
    /// A file or folder to bring in, at the same place or at PATH; the libraries of programs come along
    #[arg(long = "file", value_name = "FILE[:PATH]")]
    files: Vec<String>,
    /// A variable for the script
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Folder that receives what the script leaves in /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run udev in the guest
    #[arg(long)]
    udev: bool,
    /// A word for the kernel's command line
    #[arg(long = "boot", value_name = "WORD")]
    boot: Vec<String>,
    /// The guest's clock counts instructions: one is a nanosecond
    #[arg(long)]
    icount: bool,
    /// Seconds until the guest is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    time: u64,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// MiB of memory
    #[arg(long, value_name = "MIB", default_value_t = 768)]
    memory: u32,
    /// What is run, by its first line
    script: PathBuf,
    /// Handed to the script
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// What the suite runs.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Only under this kernel
    #[arg(long = "kernel", value_name = "KERNEL", value_delimiter = ',')]
    pub(crate) kernels: Vec<Kernel>,
    /// Guests at once
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) jobs: usize,
    /// Write what was measured to the files in the tree instead of comparing it with them
    #[arg(long)]
    pub(crate) note_speed: bool,
    /// Only what the lane of ci runs: most scripts that take long under one kernel
    #[arg(long)]
    pub(crate) brief: bool,
    /// Only these scripts; see `cargo xtask vm list`
    pub(crate) names: Vec<String>,
}

impl TestArgs {
    /// What the lane runs.
    pub(crate) fn lane() -> Self {
        Self { kernels: Vec::new(), jobs: 2, note_speed: false, brief: true, names: Vec::new() }
    }
}

/// One run: what is in the guest, and around it.
struct Job {
    root: PathBuf,
    kernel: Kernel,
    script: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// The last is the report.
    disks: Vec<Disk>,
    modules: Vec<PathBuf>,
    more_modules: Vec<String>,
    programs: Vec<String>,
    files: Vec<(PathBuf, String)>,
    out: Option<PathBuf>,
    udev: bool,
    boot: Vec<String>,
    icount: bool,
    cpus: u32,
    memory: u32,
    seconds: u64,
}

/// Does the chore; the exit status of `run` is the script's.
///
/// # Errors
/// Something is not here and cannot be had, or the arguments make no sense.
pub(crate) fn run(root: &Path, args: &VmArgs) -> Result<ExitCode> {
    match &args.chore {
        VmChore::Run(args) => run_one(root, args),
        VmChore::Test(args) => {
            let tally = test(root, args)?;
            Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        VmChore::List => {
            suite::list();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_one(root: &Path, args: &RunArgs) -> Result<ExitCode> {
    let job = job(root, args)?;
    let tree = Tree::provide(root, &args.packages)?;
    let kernel = Booted::provide(root, &tree, &args.kernel)?;
    let home = root.join("target/vm/runs").join(format!("run-{}", std::process::id()));
    let end = machine::run(&job, &tree, &kernel, &home, &mut |line| println!("{line}"));
    let log = fs::read_to_string(home.join(machine::CONSOLE)).unwrap_or_default();
    fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    let (code, why) = match end? {
        End::Script(0) => return Ok(ExitCode::SUCCESS),
        End::Script(status) => {
            (u8::try_from(status).unwrap_or(1), format!("the script ended with status {status}"))
        }
        End::TimeLimit => (OUT_OF_TIME, format!("the guest did not end within {} s", job.seconds)),
        End::Died(how) | End::NeverBegan(how) => (DIED, format!("the guest died before it reported ({how})")),
    };
    for line in tail(&log) {
        eprintln!("kernel: {line}");
    }
    eprintln!("xtask: {why}");
    Ok(ExitCode::from(code))
}

fn job(root: &Path, args: &RunArgs) -> Result<Job> {
    let mut files = Vec::new();
    for text in &args.files {
        let (from, to) = text.split_once(':').unwrap_or((text, ""));
        let from = Path::new(from).canonicalize().with_context(|| format!("file {from}"))?;
        let to = if to.is_empty() { from.display().to_string() } else { to.to_owned() };
        ensure!(to.starts_with('/'), "`{text}`: the guest's path begins with /");
        files.push((from, to));
    }
    let mut environment = Vec::new();
    for text in &args.environment {
        let (name, value) = text.split_once('=').with_context(|| format!("`{text}` is not NAME=VALUE"))?;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        ensure!(
            plain && !name.starts_with(|c: char| c.is_ascii_digit()),
            "`{name}` is no name of a variable"
        );
        environment.push((name.to_owned(), value.to_owned()));
    }
    if args.icount && args.kernel == Kernel::Uml {
        bail!("User-mode Linux cannot count instructions: --icount wants one of Debian's kernels");
    }
    let mut disks = args.disks.clone();
    disks.push(machine::REPORT.parse().map_err(anyhow::Error::msg)?);
    Ok(Job {
        root: root.to_owned(),
        kernel: args.kernel.clone(),
        script: args.script.clone(),
        arguments: args.arguments.clone(),
        environment,
        disks,
        modules: args.modules.clone(),
        more_modules: args.more_modules.clone(),
        programs: args.programs.clone(),
        files,
        out: args.out.clone(),
        udev: args.udev,
        boot: args.boot.clone(),
        icount: args.icount,
        cpus: args.cpus,
        memory: args.memory,
        seconds: args.time,
    })
}

/// The end of a log.
fn tail(log: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(LINES_SHOWN);
    lines.into_iter().skip(from)
}
