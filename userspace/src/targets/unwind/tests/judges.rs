//! Tables of real binaries against independent judges: gimli's evaluator, and readelf.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, Encoding, EvaluationResult, Format, LittleEndian, Location,
    Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow, Value,
};
use hostscope_wire::unwind::{Rule, cfa, fp, register};

use crate::targets::elf::ElfFile;
use crate::targets::elf::test_files::{noise, system_files};
use crate::targets::unwind::{Table, check, compile, lookup};

type Bytes<'a> = gimli::EndianSlice<'a, LittleEndian>;

/// A frame: general registers by DWARF number, and the pc. Memory is a function of its address.
struct Frame {
    registers: [u64; 16],
    pc: u64,
}

fn memory(address: u64) -> u64 {
    noise(address)()
}

/// What a judge or a rule says of a frame's caller: CFA, rbp, return address; none for the last frame.
type Caller = Option<(u64, Option<u64>, u64)>;

/// What `rule` says, by the words of its type's documentation.
fn by_rule(rule: Rule, frame: &Frame) -> Caller {
    let base = frame.registers[usize::from(rule.register())];
    let fp = frame.registers[usize::from(register::FP)];
    let cfa = match rule.kind() {
        cfa::REGISTER => base.wrapping_add_signed(rule.cfa_offset.into()),
        cfa::DEREFERENCE => memory(base.wrapping_add_signed((rule.cfa_offset as i16).into()))
            .wrapping_add_signed((rule.cfa_offset >> 16).into()),
        cfa::PLT => {
            let pushed = if frame.pc & 15 >= rule.fp_offset as u64 { 8 } else { 0 };
            frame.registers[7].wrapping_add_signed(rule.cfa_offset.into()) + pushed
        }
        cfa::SIGNAL => {
            let context = frame.registers[7];
            return Some((memory(context + 160), Some(memory(context + 120)), memory(context + 168)));
        }
        cfa::END => return None,
        _ => panic!("{rule:?} says nothing"),
    };
    let offset = i64::from(rule.fp_offset) * 8;
    let caller_fp = match rule.fp_kind() {
        fp::SAME => Some(fp),
        fp::AT_CFA => Some(memory(cfa.wrapping_add_signed(offset))),
        fp::AT_FP => Some(memory(fp.wrapping_add_signed(offset))),
        _ => None,
    };
    let caller_pc = match rule.return_register() {
        Some(register) => frame.registers[usize::from(register)],
        None => memory(cfa.wrapping_sub(8)),
    };
    Some((cfa, caller_fp, caller_pc))
}

/// What gimli says.
fn by_gimli(row: &UnwindTableRow<usize>, section: &EhFrame<Bytes<'_>>, frame: &Frame) -> Caller {
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            frame.registers[usize::from(register.0)].wrapping_add_signed(*offset)
        }
        CfaRule::Expression(expression) => evaluate(expression, section, frame, None),
    };
    let value = |register: u16| match row.register(Register(register)).unwrap_or(RegisterRule::SameValue) {
        RegisterRule::Offset(offset) => Some(memory(cfa.wrapping_add_signed(offset))),
        RegisterRule::Expression(expression) => {
            Some(memory(evaluate(&expression, section, frame, Some(cfa))))
        }
        RegisterRule::Register(other) => Some(frame.registers[usize::from(other.0)]),
        RegisterRule::SameValue => Some(frame.registers[usize::from(register)]),
        RegisterRule::Undefined => None,
        rule => panic!("{rule:?}"),
    };
    value(16).map(|pc| (cfa, value(6), pc))
}

fn evaluate(
    expression: &UnwindExpression<usize>,
    section: &EhFrame<Bytes<'_>>,
    frame: &Frame,
    cfa: Option<u64>,
) -> u64 {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 5 };
    let mut evaluation = expression.get(section).unwrap().evaluation(encoding);
    if let Some(cfa) = cfa {
        evaluation.set_initial_value(cfa);
    }
    let mut state = evaluation.evaluate().unwrap();
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = frame.registers.get(usize::from(register.0)).copied().unwrap_or(frame.pc);
                evaluation.resume_with_register(Value::Generic(value)).unwrap()
            }
            EvaluationResult::RequiresMemory { address, .. } => {
                evaluation.resume_with_memory(Value::Generic(memory(address))).unwrap()
            }
            other => panic!("{other:?}"),
        };
    }
    let Location::Address { address } = evaluation.result()[0].location else { panic!("no address") };
    address
}

/// Compares the table of the file at `path` with what gimli says of each of its rows, at both ends; gives how many rows
/// were compared and how many the table does not support.
fn compare(path: &Path) -> (usize, usize) {
    let file = File::open(path).unwrap();
    let table = compile(&file).unwrap();
    check(table.blocks()).unwrap();
    let elf = ElfFile::parse(&file).unwrap();
    let section = elf.section(b".eh_frame").unwrap();
    let content = elf.section_bytes(section, 1 << 30).unwrap();
    let bases = BaseAddresses::default().set_eh_frame(section.address);
    let mut eh_frame = EhFrame::new(&content, LittleEndian);
    eh_frame.set_address_size(8);
    let (mut context, mut random) = (UnwindContext::new(), noise(1));
    let (mut compared, mut unsupported) = (0, 0);
    let mut entries = eh_frame.entries(&bases);
    while let Some(entry) = entries.next().unwrap() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
        let mut rows = fde.rows(&eh_frame, &bases, &mut context).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            if row.start_address() >= row.end_address() {
                continue;
            }
            for pc in [row.start_address(), row.end_address() - 1] {
                let Some(offset) = file_offset(&elf, pc) else { continue };
                let rule = lookup(table.blocks(), offset).unwrap();
                if rule == Rule::UNSUPPORTED {
                    unsupported += 1;
                    continue;
                }
                for nibble in 0..16 {
                    let pc = if rule.kind() == cfa::PLT { pc & !15 | nibble } else { pc };
                    let frame = Frame { registers: std::array::from_fn(|_| random() >> 8), pc };
                    let (ours, theirs) = (by_rule(rule, &frame), by_gimli(row, &eh_frame, &frame));
                    assert_eq!(ours, theirs, "{}: {pc:#x}: {rule:?}", path.display());
                    if rule.kind() != cfa::PLT {
                        break;
                    }
                }
                assert_eq!(rule == Rule::SIGNAL, fde.is_signal_trampoline(), "{pc:#x}");
                compared += 1;
            }
        }
    }
    (compared, unsupported)
}

fn file_offset(elf: &ElfFile<'_>, address: u64) -> Option<u64> {
    let segments = elf.segments().iter().filter(|segment| segment.kind == 1 && segment.flags & 1 != 0);
    segments.into_iter().find_map(|segment| {
        let within = address.checked_sub(segment.address).filter(|&within| within < segment.file_bytes)?;
        Some(segment.offset + within)
    })
}

#[test]
fn gimli_says_the_same_of_every_row() {
    let mut files = system_files();
    files.push(std::env::current_exe().unwrap());
    files.push("/usr/lib/x86_64-linux-gnu/libstdc++.so.6".into());
    files.push("/usr/lib/x86_64-linux-gnu/libcrypto.so.3".into());
    let mut total = 0;
    for path in files.iter().filter(|path| path.exists()) {
        let (compared, unsupported) = compare(path);
        assert!(unsupported < 20, "{}: {unsupported} of {compared}", path.display());
        total += compared;
    }
    assert!(total > 100_000, "{total}");
}

#[test]
fn libc_has_a_signal_frame_and_ends() {
    let path = system_files().into_iter().find(|path| path.ends_with("libc.so.6")).unwrap();
    let table = compile(&File::open(&path).unwrap()).unwrap();
    let rules = all_rules(&table);
    for wanted in [Rule::SIGNAL, Rule::END] {
        assert!(rules.contains(&wanted), "{wanted:?}");
    }
    // vfork keeps its return address in rdi.
    assert!(rules.iter().any(|rule| rule.return_register() == Some(5)));
}

fn all_rules(table: &Table) -> Vec<Rule> {
    let (pages, first) = (table.header().pages, table.header().first_page);
    let offsets = u64::from(first) << 16..u64::from(first + pages) << 16;
    let mut rules: Vec<Rule> = offsets.filter_map(|offset| lookup(table.blocks(), offset)).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[test]
fn the_vdso_has_a_table() {
    let Some(image) = vdso() else { return };
    let table = compile(&image).unwrap();
    check(table.blocks()).unwrap();
    assert!(all_rules(&table).iter().any(|rule| rule.kind() == cfa::REGISTER));
    assert_eq!(table.header().unsupported, 0);
}

/// The kernel's image, as mapped into this process.
fn vdso() -> Option<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
    let mut image = vec![0; (end - start) as usize];
    let memory = File::open("/proc/self/mem").unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut image, start).unwrap();
    Some(image)
}

/// readelf's words for the rows of a file: address, CFA, rbp, return address.
fn readelf_rows(path: &Path) -> Vec<(u64, String, String, String)> {
    // Its status is 1 where the file names a file of debug information that is not installed.
    let output = Command::new("readelf").arg("--debug-dump=frames-interp").arg(path).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let (mut rows, mut columns, mut is_function) = (Vec::new(), Vec::new(), false);
    for line in printed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.contains(" FDE ") || line.contains(" CIE ") {
            is_function = line.contains(" FDE ");
        } else if words.first() == Some(&"LOC") {
            columns = words.iter().map(ToString::to_string).collect();
        } else if let Some(address) =
            words.first().filter(|word| word.len() == 16).and_then(|word| u64::from_str_radix(word, 16).ok())
        {
            let of = |name: &str| {
                let at = columns.iter().position(|column| column == name);
                at.and_then(|at| words.get(at)).map_or("u", |word| word).to_owned()
            };
            if is_function && words.len() == columns.len() {
                rows.push((address, of("CFA"), of("rbp"), of("ra")));
            }
        }
    }
    rows
}

#[test]
fn readelf_says_the_same_where_it_says_enough() {
    let path = system_files().into_iter().find(|path| path.ends_with("libc.so.6")).unwrap();
    let file = File::open(&path).unwrap();
    let (table, elf) = (compile(&file).unwrap(), ElfFile::parse(&file).unwrap());
    let names = ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11"];
    let rows = readelf_rows(&path);
    let mut compared = 0;
    for (index, (address, cfa, fp, ra)) in rows.iter().enumerate() {
        // Of several rows of the same place the last one holds.
        if rows.get(index + 1).is_some_and(|next| next.0 == *address) || cfa == "exp" {
            continue;
        }
        let rule = lookup(table.blocks(), file_offset(&elf, *address).unwrap()).unwrap();
        if rule.kind() != cfa::REGISTER || rule.return_register().is_some() {
            continue;
        }
        let words = format!("{}{:+}", names[usize::from(rule.register())], rule.cfa_offset);
        assert_eq!((words.as_str(), "c-8"), (cfa.as_str(), ra.as_str()), "{address:#x}");
        let fp_words = match rule.fp_kind() {
            fp::AT_CFA => format!("c{:+}", rule.fp_offset * 8),
            _ => "u".to_owned(),
        };
        assert_eq!(&fp_words, fp, "{address:#x}");
        compared += 1;
    }
    assert!(compared > 10_000, "{compared}");
}
