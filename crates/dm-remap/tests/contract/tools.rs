//! Every command, what it takes, and the part of the contract that needs no devices: help, version, options.

use crate::world::World;

/// A command of the program.
pub(crate) struct Tool {
    /// The words that choose it.
    pub(crate) words: &'static str,
    /// Arguments with which it does its work in a [`World`]. Files it reads are in capitals, see [`World::input`].
    pub(crate) args: &'static str,
    /// The files among them that it reads.
    pub(crate) inputs: &'static [&'static str],
    /// Does it refuse to run without arguments?
    pub(crate) needs_arguments: bool,
}

const fn tool(words: &'static str, args: &'static str, inputs: &'static [&'static str]) -> Tool {
    Tool { words, args, inputs, needs_arguments: true }
}

/// All of them, in the order of the help.
pub(crate) const TOOLS: [Tool; 26] = [
    tool("adopt", "MAIN --spare NEW --create-spare 2M --map LIST --name other", &["MAIN", "LIST"]),
    tool("serve", "MAIN --spare SPARE --stdio", &["MAIN", "SPARE"]),
    // Of block devices, which a test without root has none of.
    tool("stock serve", "MAIN --spare SPARE", &[]),
    tool("stock assemble", "MAIN --spare SPARE", &[]),
    tool("stock remove", "vol", &[]),
    Tool { needs_arguments: false, ..tool("status", "vol", &[]) },
    tool("trace", "vol --seconds 1", &[]),
    tool("message", "vol ping", &[]),
    tool("map list", "--spare SPARE", &["SPARE"]),
    tool("map import", "--main MAIN --spare SPARE LIST", &["MAIN", "SPARE", "LIST"]),
    tool("map export", "--spare SPARE --format list --output NEW", &["SPARE"]),
    tool("metadata check", "--spare SPARE", &["SPARE"]),
    tool("metadata dump", "--spare SPARE --output NEW", &["SPARE"]),
    tool("metadata analyze", "--spare SPARE", &["SPARE"]),
    tool("metadata generations", "--spare SPARE", &["SPARE"]),
    tool("metadata compare", "--spare SPARE --from DUMP", &["SPARE", "DUMP"]),
    tool("metadata repair", "--spare SPARE --output NEW", &["SPARE"]),
    tool("metadata rollback", "--spare SPARE --to DUMP --output NEW", &["SPARE", "DUMP"]),
    tool("metadata restore", "DUMP --spare SPARE --main MAIN --force", &["DUMP", "SPARE", "MAIN"]),
    tool("release", "MAIN --spare SPARE --to NEW --yes", &["MAIN", "SPARE"]),
    Tool { needs_arguments: false, ..tool("demo", "--map DDRESCUE --dir NEW --quick", &["DDRESCUE"]) },
    tool("stress high-concurrency", "8 1 --main MAIN --spare SPARE --destroy --quiet", &["MAIN", "SPARE"]),
    tool("stress tb-scale", "1 0.017 --room 16M --folder directory --quiet", &[]),
    tool("stress endurance", "0.0003 1 --main MAIN --spare SPARE --destroy --quiet", &["MAIN", "SPARE"]),
    tool("stress production", "3 1 0.017 --main MAIN --spare SPARE --destroy --quiet", &["MAIN", "SPARE"]),
    tool("generate-completions", "bash", &[]),
];

impl Tool {
    /// Its command line in a world, with `instead` in place of one of its inputs.
    pub(crate) fn line(&self, instead: Option<(&str, &str)>) -> Vec<String> {
        let mut line: Vec<String> = self.words.split(' ').map(str::to_owned).collect();
        line.extend(self.args.split(' ').filter(|a| !a.is_empty()).map(|arg| match instead {
            Some((input, other)) if input == arg => other.to_owned(),
            _ => World::input(arg).to_owned(),
        }));
        line
    }
}

/// The commands that the help of `words` names.
fn commands(world: &World, words: &[&str]) -> Vec<String> {
    let said = world.run(&[words, &["--help"]].concat()).done().out;
    let lines = said.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let indent = line.len() - line.trim_start().len();
        line.split_whitespace().next().filter(|_| indent == 2).map(str::to_owned)
    });
    names.filter(|name| name != "help").collect()
}

#[test]
fn the_table_has_every_command() {
    let world = World::create();
    let mut found = Vec::new();
    for command in commands(&world, &[]) {
        let below = commands(&world, &[&command]);
        if below.is_empty() {
            found.push(command);
        } else {
            found.extend(below.iter().map(|leaf| format!("{command} {leaf}")));
        }
    }
    // Hidden: it is for those who build packages.
    found.push("generate-completions".into());
    assert_eq!(found, TOOLS.map(|tool| tool.words));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let world = World::create();
    for tool in &TOOLS {
        let words: Vec<&str> = tool.words.split(' ').collect();
        for option in ["--help", "-h"] {
            let said = world.run(&[&words[..], &[option]].concat()).done();
            assert!(said.out.contains(&format!("Usage: dm-remap {}", tool.words)), "{said:?}");
            assert_eq!(said.err, "");
        }
        let said = world.run(&[&words[..], &["--version"]].concat()).done();
        assert!(said.out.starts_with("dm-remap") && said.out.contains(env!("CARGO_PKG_VERSION")), "{said:?}");
    }
    let said = world.run(&["--help"]).done();
    assert!((0..=9).all(|code| said.out.contains(&format!("\n  {code}  "))), "the codes are told: {said:?}");
}

#[test]
fn a_wrong_command_line_is_told_apart_from_all_else() {
    let world = World::create();
    for tool in &TOOLS {
        let words: Vec<&str> = tool.words.split(' ').collect();
        for option in ["--no-such-option", "--help=yes", "--spare="] {
            let said = world.run(&[&words[..], &[option]].concat());
            assert_eq!(said.code, Some(2), "{tool:?} {said:?}", tool = tool.words);
            assert_eq!(said.out, "");
            assert!(said.err.starts_with("error: ") && said.err.contains("--help"), "{said:?}");
        }
        if tool.needs_arguments {
            let said = world.run(&words);
            assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{}", tool.words);
        }
        let said = world.run(&[&words[..], &["a", "b", "c", "d", "e"]].concat());
        assert!(matches!(said.code, Some(2 | 7)), "{}: {said:?}", tool.words);
    }
    for words in [&["no-such-command"][..], &["metadata", "mend"], &[], &["map"], &["metadata"], &["stress"]]
    {
        assert_eq!(world.run(words).code, Some(2), "{words:?}");
    }
    world.unchanged();
}

#[test]
fn they_do_their_work() {
    let asks = |t: &&Tool| matches!(t.words, "status" | "trace" | "message" | "demo");
    for tool in TOOLS.iter().filter(|t| !asks(t) && !t.words.starts_with("stock ")) {
        let world = World::create();
        let said = world.run(&tool.line(None).iter().map(String::as_str).collect::<Vec<_>>());
        // The volume has lost sectors, and to leave it with them is not the same as without.
        assert_eq!(said.code, Some(if tool.words == "release" { 8 } else { 0 }), "{}: {said:?}", tool.words);
    }
}
