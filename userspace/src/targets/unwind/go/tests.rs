//! Tests of Go's own table: made by hand, and made by Go.

use std::fs;

use hostscope_wire::unwind::{Rule, cfa, fp, register};

use crate::targets::elf::test_files::{Workshop, noise, run, text};
use crate::targets::unwind::{Table, check, compile, lookup};

/// Where the code of the files made by hand lies, in the file and as an address.
const CODE_OFFSET: u64 = 0x1000;
const CODE_ADDRESS: u64 = 0x40_1000;
/// Each function has as much.
const FUNCTION_BYTES: usize = 32;

/// A function: its flags, its name, its code, its steps as (depth, bytes).
type Made = (u8, &'static str, &'static [u8], &'static [(i32, u32)]);

const PUSHES: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10];
const STORES: &[u8] = &[0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x6c, 0x24, 0x10];
const SWITCHES: &[u8] = &[0x90, 0x48, 0x8b, 0x62, 0x38, 0xff, 0xd7];
const PUSHES_AND_SWITCHES: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x8b, 0x62, 0x38, 0xff, 0xd7, 0x5d, 0xc3];

const FUNCTIONS: [Made; 8] = [
    (0, "main.pushes", PUSHES, &[(0, 1), (8, 7), (0x18, 20), (8, 1), (0, 3)]),
    (0, "main.stores", STORES, &[(0, 4), (0x18, 24), (0, 4)]),
    (0, "main.leaf", &[0x90], &[(0, 32)]),
    (1, "runtime.goexit", &[0x90], &[(0, 32)]),
    (1, "runtime.sigtramp", &[0x9c], &[(0, 1), (8, 31)]),
    (2, "runtime.systemstack", PUSHES_AND_SWITCHES, &[(0, 1), (8, 10), (0, 21)]),
    (2, "runtime.mcall", SWITCHES, &[(0, 32)]),
    (0, "runtime.sigreturn", &super::SIGRETURN, &[(0, 32)]),
];

/// A table of Go 1.20 for `functions`, whose header says that their code begins at `text`.
fn go_table(functions: &[Made], text: u64) -> Vec<u8> {
    let (mut names, mut steps, mut records) = (vec![0], vec![0], Vec::new());
    let functab_bytes = functions.len() * 8 + 4;
    let mut functab = Vec::new();
    for (index, &(flags, name, _, pairs)) in functions.iter().enumerate() {
        let mut record = [0; 44];
        record[4..8].copy_from_slice(&(names.len() as u32).to_le_bytes());
        record[16..20].copy_from_slice(&(steps.len() as u32).to_le_bytes());
        record[41] = flags;
        functab.extend(((index * FUNCTION_BYTES) as u32).to_le_bytes());
        functab.extend(((functab_bytes + records.len()) as u32).to_le_bytes());
        records.extend(record);
        names.extend(name.bytes().chain([0]));
        let mut depth = -1;
        for &(next, bytes) in pairs {
            let change = next - depth;
            steps.extend([((change << 1) ^ (change >> 31)) as u8, bytes as u8]);
            depth = next;
        }
        steps.push(0);
    }
    functab.extend(((functions.len() * FUNCTION_BYTES) as u32).to_le_bytes());
    let names_at = 72;
    let steps_at = names_at + names.len();
    let functab_at = steps_at + steps.len();
    let mut table = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
    let words = [functions.len() as u64, 0, text, names_at as u64, 0, 0, steps_at as u64, functab_at as u64];
    table.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    [table, names, steps, functab, records].concat()
}

/// A program with that code and that table.
fn program(functions: &[Made], skew: usize, table: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.text\0.gopclntab\0";
    let mut code = vec![0xcc; skew];
    for (_, _, bytes, _) in functions {
        code.extend_from_slice(bytes);
        code.resize(code.len().next_multiple_of(FUNCTION_BYTES), 0xcc);
    }
    let table_at = CODE_OFFSET + code.len() as u64;
    let names_at = table_at + table.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([CODE_ADDRESS, 64, 120].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(
        [0, 64, 56, 1, 64, 4, 3]
            .iter()
            .scan(0, |index, &half: &u16| {
                *index += 1;
                Some(if *index == 1 { vec![0, 0, 0, 0] } else { half.to_le_bytes().to_vec() })
            })
            .flatten(),
    );
    bytes.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let code_bytes = code.len() as u64;
    let segment = [CODE_OFFSET, CODE_ADDRESS, CODE_ADDRESS, code_bytes, code_bytes, 0x1000];
    bytes.extend(segment.iter().flat_map(|word| word.to_le_bytes()));
    let mut section = |name: u32, kind: u32, flags: u64, address: u64, offset: u64, length: u64| {
        bytes.extend([name, kind].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend([flags, address, offset, length, 0, 16, 0].iter().flat_map(|word| word.to_le_bytes()));
    };
    section(0, 0, 0, 0, 0, 0);
    section(1, 1, 6, CODE_ADDRESS, CODE_OFFSET, code_bytes);
    section(7, 1, 2, 0, table_at, table.len() as u64);
    section(0, 3, 0, 0, names_at, NAMES.len() as u64);
    bytes.resize(CODE_OFFSET as usize, 0);
    [&bytes, &code, table, NAMES].concat()
}

fn by_sp(depth: i32, is_saved: bool) -> Rule {
    super::by_stack_pointer(depth, is_saved).unwrap()
}

/// The rules of the function at `index` of [`FUNCTIONS`], each with the byte of it where it begins.
fn rules(table: &Table, skew: usize, index: usize) -> Vec<(usize, Rule)> {
    let first = CODE_OFFSET as usize + skew + index * FUNCTION_BYTES;
    let mut all: Vec<(usize, Rule)> = Vec::new();
    for within in 0..FUNCTION_BYTES {
        let rule = lookup(table.blocks(), (first + within) as u64).unwrap();
        if all.last().is_none_or(|&(_, last)| last != rule) {
            all.push((within, rule));
        }
    }
    all
}

fn check_made(skew: usize, said: u64) {
    let file = program(&FUNCTIONS, skew, &go_table(&FUNCTIONS, said));
    let table = compile(&file).unwrap();
    check(table.blocks()).unwrap();
    let of = |index| rules(&table, skew, index);
    let (bare, frame) = (by_sp(0, false), by_sp(0x18, true));
    assert_eq!(of(0), [(0, bare), (1, by_sp(8, true)), (8, frame), (28, by_sp(8, true)), (29, bare)]);
    assert_eq!(of(1), [(0, bare), (4, by_sp(0x18, false)), (9, frame), (28, bare)]);
    assert_eq!(of(2), [(0, bare)]);
    assert_eq!(of(3), [(0, Rule::END)]);
    assert_eq!(of(4), [(0, bare), (1, by_sp(8, false))]);
    assert_eq!(of(5), [(0, bare), (1, by_sp(8, true)), (5, super::by_frame_pointer()), (11, bare)]);
    // The last byte belongs to the signal's return that follows.
    assert_eq!(of(6), [(0, bare), (2, Rule::END), (31, Rule::SIGNAL)]);
    assert_eq!(of(7), [(0, Rule::SIGNAL)]);
}

#[test]
fn each_sort_of_function_has_its_rules() {
    check_made(0, CODE_ADDRESS);
}

#[test]
fn the_code_is_found_where_the_header_does_not_say() {
    check_made(0x140, 0);
}

#[test]
fn a_table_that_does_not_fit_the_code_is_not_believed() {
    let file = program(&FUNCTIONS, 0, &go_table(&FUNCTIONS, CODE_ADDRESS + 1));
    assert!(compile(&file).is_err());
}

#[test]
fn damaged_tables_do_no_harm() {
    let table = go_table(&FUNCTIONS, CODE_ADDRESS);
    let mut random = noise(7);
    for round in 0..20_000 {
        let mut damaged = table.clone();
        for _ in 0..=round % 4 {
            let at = random() as usize % damaged.len();
            damaged[at] = random() as u8;
        }
        damaged.truncate(if round % 8 == 0 { random() as usize % table.len() } else { table.len() });
        if let Ok(compiled) = compile(&program(&FUNCTIONS, 0, &damaged)) {
            check(compiled.blocks()).unwrap();
        }
    }
}

const SOURCE: &str = r#"package main

import (
	"fmt"
	"sort"
)

func main() {
	values := []int{3, 1, 2}
	defer func() { fmt.Println(recover(), values) }()
	sort.Slice(values, func(i, j int) bool { return values[i] < values[j] })
	panic("over")
}
"#;

fn build(workshop: &Workshop, name: &str, flags: &[&str]) -> Vec<u8> {
    let source = workshop.path("main.go");
    fs::write(&source, SOURCE).unwrap();
    let output = workshop.path(name);
    let arguments = [&["build"], flags, &["-o", text(&output), text(&source)]].concat();
    run("go", &arguments);
    fs::read(output).unwrap()
}

/// Whether two rules put the CFA at the same place.
fn same_cfa(one: Rule, other: Rule) -> bool {
    (one.cfa, one.cfa_offset) == (other.cfa, other.cfa_offset)
}

#[test]
fn rules_are_those_of_debug_frame_except_where_stacks_begin_or_change() {
    let workshop = Workshop::new();
    let whole = build(&workshop, "whole", &[]);
    let own = compile(&whole).unwrap();
    let stripped = compile(&build(&workshop, "stripped", &["-ldflags=-s -w"])).unwrap();
    assert_eq!(own.header().rows, stripped.header().rows);

    // With its own table hidden, what `.debug_frame` says remains.
    let mut hidden = whole;
    let name = memchr::memmem::find(&hidden, b"\0.gopclntab\0").unwrap();
    hidden[name + 2] = b'x';
    let debug = compile(&hidden).unwrap();

    let (mut compared, mut special) = (0, 0);
    let header = debug.header();
    let pages = u64::from(header.first_page)..u64::from(header.first_page + header.pages);
    for offset in pages.start << 16..pages.end << 16 {
        let Some(said) = lookup(debug.blocks(), offset).filter(|said| said.kind() != cfa::NONE) else {
            continue;
        };
        let rule = lookup(own.blocks(), offset).unwrap();
        let is_special = rule.kind() != cfa::REGISTER || rule.register() == register::FP;
        if is_special {
            special += 1;
            continue;
        }
        compared += 1;
        assert!(same_cfa(rule, said), "at {offset:#x}: {rule:?} and {said:?}");
        assert!(rule.fp_kind() != fp::AT_CFA || rule.cfa_offset >= 16);
    }
    assert!(compared > 400_000 && special < 8000, "{compared} bytes of code alike, {special} special");
}
