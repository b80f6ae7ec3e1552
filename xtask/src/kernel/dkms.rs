//! The DKMS package: the shim in C and the Rust object as it was built here, for whoever has gcc and headers but no Rust.
//!
//! Invariant: what the package builds is, byte for byte, the module that the tree builds; that is tried with no Rust toolchain in the path.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::headers::Headers;
use super::{Places, module};
use crate::run::output;

const NAME: &str = "dm-remap";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds the package and gives its path.
///
/// # Errors
/// `dpkg-deb` is missing.
pub(crate) fn build(places: &Places<'_>, object: &Path) -> Result<PathBuf> {
    let folder = places.target.join("dkms");
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).context("removing an earlier package")?;
    }
    let sources = root.join(format!("usr/src/{NAME}-{VERSION}"));
    module::lay_out(places, object, &sources)?;
    fs::write(sources.join("dkms.conf"), filled(CONFIGURATION))?;
    let documents = root.join("usr/share/doc/dm-remap-dkms");
    fs::create_dir_all(&documents)?;
    fs::copy(places.root.join("docs/kernel.md"), documents.join("kernel.md"))?;
    fs::write(documents.join("copyright"), COPYRIGHT)?;
    let control = root.join("DEBIAN");
    fs::create_dir_all(&control)?;
    fs::write(control.join("control"), filled(CONTROL))?;
    for (name, text) in [("postinst", POSTINST), ("prerm", PRERM)] {
        let script = control.join(name);
        fs::write(&script, filled(text))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    let package = folder.join(format!("dm-remap-dkms_{VERSION}_amd64.deb"));
    output(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&root).arg(&package))?;
    println!("dkms: {}", package.strip_prefix(places.root).unwrap_or(&package).display());
    Ok(package)
}

/// Unpacks the package and builds the module as DKMS does; `false` when that is not this module.
///
/// # Errors
/// It could not be run.
pub(crate) fn try_out(places: &Places<'_>, package: &Path, headers: &Headers, module: &Path) -> Result<bool> {
    let unpacked = places.target.join("dkms").join(&headers.release);
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).context("removing an earlier trial")?;
    }
    output(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    let sources = unpacked.join("usr/src");
    let no_rust = without_rust(places)?;
    let built = module::make(headers, &sources.join(format!("{NAME}-{VERSION}")), Some(no_rust.clone()))?;
    let Some(built) = built else { return Ok(false) };
    let mut good = same(headers, "make", module, &built)?;
    if Command::new("dkms").arg("--version").output().is_ok() {
        let tree = unpacked.join("dkms");
        fs::create_dir_all(&tree)?;
        let built = by_dkms(headers, &sources, &tree, &headers.path(Some(no_rust))?)?;
        good &= same(headers, "dkms build", module, &built)?;
    } else {
        println!("{}: dkms is not installed: its build was done by make alone", headers.release);
    }
    Ok(good)
}

fn by_dkms(headers: &Headers, sources: &Path, tree: &Path, path: &OsStr) -> Result<PathBuf> {
    // What the first build left behind is no source.
    let clean = [format!("M={}", sources.join(format!("{NAME}-{VERSION}")).display()), "clean".into()];
    output(Command::new("make").arg("-C").arg(&headers.folder).args(&clean))?;
    let version = format!("{NAME}/{VERSION}");
    for step in ["add", "build"] {
        let mut dkms = Command::new("dkms");
        dkms.args([step, &version, "--sourcetree"]).arg(sources).arg("--dkmstree").arg(tree);
        if step == "build" {
            dkms.args(["-k", &headers.release, "--kernelsourcedir"]).arg(&headers.folder);
        }
        output(dkms.env("PATH", path))?;
    }
    let folder = tree.join(format!("{version}/{}/x86_64/module", headers.release));
    let entry =
        fs::read_dir(&folder).with_context(|| format!("dkms left nothing in {}", folder.display()))?.next();
    Ok(entry.context("dkms left no module")??.path())
}

/// Is it the same code? (Who builds may sign, strip debug sections or compress: what is compared are the sections that a kernel runs.)
fn same(headers: &Headers, how: &str, one: &Path, other: &Path) -> Result<bool> {
    let sections = |path: &Path| -> Result<Vec<u8>> {
        let plain = path.with_extension("sections");
        let unpacked = if path.extension().is_some_and(|end| end == "xz") {
            let bytes = Command::new("xz").args(["-dc"]).arg(path).output().context("xz does not start")?;
            let file = path.with_extension("");
            fs::write(&file, bytes.stdout)?;
            file
        } else {
            path.to_owned()
        };
        let mut objcopy = Command::new("objcopy");
        objcopy.args(["--strip-debug", "--remove-section=.note*", "--remove-section=.BTF*"]);
        output(objcopy.arg(&unpacked).arg(&plain))?;
        fs::read(&plain).with_context(|| format!("reading {}", plain.display()))
    };
    let good = sections(one)? == sections(other)?;
    let verdict = if good { "the same module" } else { "ANOTHER module" };
    println!("{}: from the package, by {how}, without Rust: {verdict}", headers.release);
    Ok(good)
}

/// A folder for the path: a Rust toolchain that does nothing.
fn without_rust(places: &Places<'_>) -> Result<PathBuf> {
    let folder = places.target.join("dkms/no-rust");
    fs::create_dir_all(&folder)?;
    for program in ["cargo", "rustc"] {
        let script = folder.join(program);
        fs::write(&script, "#!/bin/sh\necho 'error: there is no Rust here' >&2\nexit 127\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

fn filled(text: &str) -> String {
    text.replace("@NAME@", NAME).replace("@VERSION@", VERSION)
}

const CONFIGURATION: &str = "PACKAGE_NAME=\"@NAME@\"
PACKAGE_VERSION=\"@VERSION@\"
BUILT_MODULE_NAME[0]=\"@NAME@\"
DEST_MODULE_LOCATION[0]=\"/updates/dkms\"
MAKE[0]=\"make -C ${kernel_source_dir} M=${dkms_tree}/@NAME@/@VERSION@/build modules\"
CLEAN=\"make -C ${kernel_source_dir} M=${dkms_tree}/@NAME@/@VERSION@/build clean\"
BUILD_EXCLUSIVE_ARCH=\"x86_64\"
BUILD_EXCLUSIVE_KERNEL=\"^(6\\.([1-9]|[1-9][0-9])|[7-9])\\.\"
AUTOINSTALL=\"yes\"
";

const CONTROL: &str = "Package: dm-remap-dkms
Version: @VERSION@
Architecture: amd64
Maintainer: the dm-remap authors <dm-remap@invalid>
Section: kernel
Priority: optional
Depends: dkms, gcc, make
Recommends: linux-headers-amd64, dmsetup
Description: device-mapper target that keeps a failing disk in service
 Moves the few blocks of a disk that went bad to a spare, under any file system.
 The module is built for each kernel that is installed, from its shim in C and an
 object that was compiled from Rust beforehand: gcc and headers are all that is needed.
";

const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: dm-remap

Files: *
Copyright: the dm-remap authors
License: GPL-2
 On Debian systems the text of the license is in /usr/share/common-licenses/GPL-2.
";

const POSTINST: &str = "#!/bin/sh
# A build that fails is a package that is not configured: nobody is to find that out at the next boot.
set -e
[ \"$1\" = configure ] || exit 0
/usr/lib/dkms/common.postinst @NAME@ @VERSION@ \"\" \"\" \"$2\"
";

const PRERM: &str = "#!/bin/sh
set -e
case $1 in remove | upgrade | deconfigure) ;; *) exit 0 ;; esac
if [ -n \"$(dkms status @NAME@/@VERSION@)\" ]; then dkms remove @NAME@/@VERSION@ --all; fi
";

#[cfg(test)]
mod tests {
    use super::{CONFIGURATION, filled};

    #[test]
    fn dkms_is_told_where_it_builds() {
        let text = filled(CONFIGURATION);
        let make = text.lines().find(|line| line.starts_with("MAKE[0]=")).expect("a line that builds");
        let version = env!("CARGO_PKG_VERSION");
        assert!(make.contains(&format!("M=${{dkms_tree}}/dm-remap/{version}/build modules")), "{make}");
        assert!(text.starts_with("PACKAGE_NAME=\"dm-remap\"\n"), "{text}");
    }
}
