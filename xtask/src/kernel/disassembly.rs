//! What `objdump -drC` says of an object: its functions, what they call, and how much stack they take.
//!
//! Invariant: pure; a line that is not understood is left out.

use std::collections::BTreeMap;

/// What the names of sections with code begin with, and no function's does.
pub(crate) const SECTION: &str = ".text";

/// A function.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Function {
    /// Functions that it calls or jumps to, and how often.
    pub(crate) calls: BTreeMap<String, usize>,
    /// Bytes of stack that it takes for itself.
    pub(crate) frame: u64,
    /// Instructions that the gate looks at, as they are printed.
    pub(crate) odd: Vec<String>,
}

/// Reads the text.
pub(crate) fn read(text: &str) -> BTreeMap<String, Function> {
    let begins = begins(text);
    let mut functions: BTreeMap<String, Function> = BTreeMap::new();
    let mut here = String::new();
    let mut loop_bytes = 0;
    for line in text.lines() {
        if let Some((_, name)) = header(line) {
            name.clone_into(&mut here);
            functions.entry(here.clone()).or_default();
            continue;
        }
        let Some(function) = functions.get_mut(&here) else { continue };
        if let Some(target) = call_target(line, &begins) {
            if target != here {
                *function.calls.entry(target.to_owned()).or_default() += 1;
            }
            continue;
        }
        let Some((_, code)) = line.split_once(":\t") else { continue };
        let code = code.trim();
        if let Some(bytes) = amount(code, "sub", "%r11") {
            // The end of a loop that touches each page of a large frame.
            loop_bytes = bytes;
        } else if let Some(bytes) = amount(code, "sub", "%rsp") {
            function.frame += if loop_bytes > 0 { std::mem::take(&mut loop_bytes) } else { bytes };
        } else if code.starts_with("push") {
            function.frame += 8;
        }
        if is_odd(code) {
            function.odd.push(code.to_owned());
        }
    }
    functions
}

/// Where the functions of each section begin.
fn begins(text: &str) -> BTreeMap<(&str, i64), &str> {
    let mut begins = BTreeMap::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Disassembly of section ").and_then(|s| s.strip_suffix(':')) {
            section = name;
        } else if let Some((address, name)) = header(line) {
            begins.insert((section, address), name);
        }
    }
    begins
}

/// `0000000000001c20 <name>:`
fn header(line: &str) -> Option<(i64, &str)> {
    let (address, rest) = line.split_once(" <")?;
    let name = rest.strip_suffix(">:").filter(|_| address.len() == 16)?;
    Some((i64::from_str_radix(address, 16).ok()?, name))
}

/// The function that a relocation, or a call within the object, names.
fn call_target<'a>(line: &'a str, begins: &BTreeMap<(&'a str, i64), &'a str>) -> Option<&'a str> {
    if let Some((_, symbol)) = line.split_once("R_X86_64_PLT32\t") {
        let (name, distance) = symbol.split_at(symbol.rfind(['-', '+']).unwrap_or(symbol.len()));
        if !name.starts_with(SECTION) {
            return Some(name);
        }
        // A function in another section, which has no name in the symbol table; counted from behind the four bytes of the distance.
        let begin = i64::from_str_radix(&distance.replacen("0x", "", 1), 16).map_or(-1, |n| n + 4);
        return Some(begins.get(&(name, begin)).copied().unwrap_or(symbol));
    }
    let (_, code) = line.split_once(":\t")?;
    let branches = code.starts_with("call") || code.starts_with('j');
    let (_, symbol) = code.split_once(" <").filter(|_| branches)?;
    let symbol = symbol.strip_suffix('>')?;
    // Within the function, or to a place whose relocation follows.
    (!symbol.contains("+0x")).then_some(symbol)
}

/// The number in `sub $0x208,%rsp`.
fn amount(code: &str, what: &str, register: &str) -> Option<u64> {
    let (number, to) = code.strip_prefix(what)?.trim().strip_prefix("$0x")?.split_once(',')?;
    (to == register).then(|| u64::from_str_radix(number, 16).ok()).flatten()
}

/// Vector registers, returns and indirect branches without a thunk, and bytes below the stack.
fn is_odd(code: &str) -> bool {
    let vector = ["%xmm", "%ymm", "%zmm", "%st", "%mm"].iter().any(|register| code.contains(register));
    let bare = code == "ret" || code == "retq";
    let indirect = (code.starts_with("call") || code.starts_with("jmp")) && code.contains(" *");
    let below = code.split(',').any(|operand| {
        let operand = operand.rsplit(' ').next().unwrap_or_default();
        operand.starts_with("-0x") && operand.ends_with("(%rsp)")
    });
    vector || bare || indirect || (below && !code.starts_with("lea"))
}

/// Everything that a function can get to.
pub(crate) fn reach<'a>(functions: &'a BTreeMap<String, Function>, from: &'a str) -> Vec<&'a str> {
    let mut seen = vec![from];
    let mut at = 0;
    while let Some(&name) = seen.get(at) {
        at += 1;
        for called in functions.get(name).into_iter().flat_map(|function| function.calls.keys()) {
            if !seen.contains(&called.as_str()) {
                seen.push(called);
            }
        }
    }
    seen
}

/// Most stack that a function and what it calls take, as far as calls name their target; recursion counts once.
pub(crate) fn deepest(functions: &BTreeMap<String, Function>, from: &str) -> u64 {
    let mut known = BTreeMap::new();
    depth(functions, from, &mut Vec::new(), &mut known)
}

fn depth<'a>(
    functions: &'a BTreeMap<String, Function>,
    from: &'a str,
    under: &mut Vec<&'a str>,
    known: &mut BTreeMap<&'a str, u64>,
) -> u64 {
    if let Some(&bytes) = known.get(from) {
        return bytes;
    }
    let Some(function) = functions.get(from).filter(|_| !under.contains(&from)) else { return 8 };
    under.push(from);
    let called =
        function.calls.keys().map(|called| depth(functions, called, under, known)).max().unwrap_or(0);
    under.pop();
    let bytes = 8 + function.frame + called;
    known.insert(from, bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
0000000000000010 <first>:
  10:\tendbr64
  14:\tpush   %rbx
  15:\tsub    $0x20,%rsp
  19:\tcall   1e <first+0xe>
\t\t\t1a: R_X86_64_PLT32\t<a::B as c::D>::second-0x4
  1e:\tjne    14 <first+0x4>
  20:\tjmp    25 <first+0x15>
\t\t\t21: R_X86_64_PLT32\t__x86_return_thunk-0x4
0000000000000030 <<a::B as c::D>::second>:
  30:\tmov    %rsp,%r11
  33:\tsub    $0x8000,%r11
  3a:\tsub    $0x1000,%rsp
  41:\tsub    $0x8,%rsp
  45:\tmovups %xmm0,(%rax)
  48:\tmov    %rax,-0x8(%rsp)
  4d:\tlea    -0x8(%rsp),%rax
  52:\tcall   *%rax
  54:\tjmp    10 <first>
  56:\tret
";

    /// A compiler that keeps seldom used functions in a section of their own names them there by section and distance.
    const APART: &str = "
Disassembly of section .text:
0000000000000010 <first>:
  10:\tcall   15 <first+0x5>
\t\t\t11: R_X86_64_PLT32\t.text.unlikely.+0x2c
  15:\tcall   1a <first+0xa>
\t\t\t16: R_X86_64_PLT32\t.text.unlikely.+0x2d
Disassembly of section .text.unlikely.:
0000000000000010 <not it>:
  10:\tjmp    15 <core::panicking::panic_fmt>
\t\t\t11: R_X86_64_PLT32\t.text+0xc
0000000000000030 <core::panicking::panic_fmt>:
  30:\tud2
";

    #[test]
    fn a_call_into_another_section_is_a_call_of_what_is_there() {
        let functions = read(APART);
        assert_eq!(
            functions["first"].calls.keys().collect::<Vec<_>>(),
            [".text.unlikely.+0x2d", "core::panicking::panic_fmt"],
            "what is not the begin of a function keeps the name that the gate refuses"
        );
        assert!(functions["not it"].calls.contains_key("first"));
    }

    #[test]
    fn functions_calls_frames_and_oddities() {
        let functions = read(TEXT);
        let second = "<a::B as c::D>::second";
        assert_eq!(functions.len(), 2);
        assert_eq!(functions["first"].calls.keys().collect::<Vec<_>>(), [second, "__x86_return_thunk"]);
        assert_eq!((functions["first"].frame, functions[second].frame), (0x28, 0x8008));
        let odd = ["movups %xmm0,(%rax)", "mov    %rax,-0x8(%rsp)", "call   *%rax", "ret"];
        assert_eq!(functions[second].odd, odd);
        assert!(functions["first"].odd.is_empty());
        assert_eq!(reach(&functions, "first"), ["first", second, "__x86_return_thunk"]);
        assert_eq!(deepest(&functions, "first"), 8 + 0x28 + 8 + 0x8008 + 8);
    }
}
