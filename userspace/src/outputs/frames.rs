//! Stacks as lines of frame names, root first: what folded stacks, flame graphs and their differences share.
//!
//! The root is the process's name, as people know it from `perf script | stackcollapse-perf`; processes of one name
//! share it. The thread's name follows where it differs, then user code, then kernel code; inlined functions are
//! frames of their own. Names end in `_[k]` for kernel code, `_[i]` for an inlined function and `_[j]` for
//! interpreted code or a JIT's: flamegraph.pl and inferno know these, show names without them and colour by them.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::profile::{FrameKind, Location, Profile, Sample};

use super::text;

/// What a frame is, by which it is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A process or a thread.
    Root,
    /// A compiled function.
    Native,
    /// A function inlined into the one below it.
    Inlined,
    /// An interpreted function, or one that a JIT made.
    Interpreted,
    /// A function of the kernel.
    Kernel,
}

impl Role {
    /// What the frame's name ends in.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Root | Self::Native => "",
            Self::Inlined => "_[i]",
            Self::Interpreted => "_[j]",
            Self::Kernel => "_[k]",
        }
    }
}

/// A name as it stands in a line, and what bears it.
pub(super) struct Frame {
    /// Without `;`, line ends and control characters; never empty; with its suffix.
    pub(super) name: String,
    /// Where several bear one name, the first that is not a root.
    pub(super) role: Role,
}

/// One distinct stack and how often each of the profiles has it.
pub(super) struct Line<const N: usize> {
    /// Indexes into [`Folding::frames`], the root first.
    pub(super) frames: Vec<u32>,
    /// One number a profile.
    pub(super) values: [u64; N],
}

/// The distinct stacks of `N` profiles.
pub(super) struct Folding<const N: usize> {
    /// Every name, sorted.
    pub(super) frames: Vec<Frame>,
    /// Every stack, sorted frame by frame, so that those with a common beginning are neighbours.
    pub(super) lines: Vec<Line<N>>,
}

impl<const N: usize> Folding<N> {
    /// Folds profiles by the value at the given index of each.
    pub(super) fn new(profiles: [(&Profile, usize); N]) -> Self {
        let mut names = Names::default();
        let mut lines = Vec::new();
        for (which, (profile, value_index)) in profiles.into_iter().enumerate() {
            let of_location: Vec<Vec<u32>> = profile
                .locations
                .iter()
                .map(|location| location_frames(&mut names, profile, location))
                .collect();
            for sample in &profile.samples {
                let value = sample.values.get(value_index).copied().unwrap_or(0);
                if value > 0 {
                    let mut values = [0; N];
                    values[which] = value;
                    lines.push(Line {
                        frames: sample_frames(&mut names, profile, sample, &of_location),
                        values,
                    });
                }
            }
        }
        let (frames, rank) = names.sorted();
        for line in &mut lines {
            line.frames.iter_mut().for_each(|frame| *frame = rank[*frame as usize]);
        }
        lines.sort_unstable_by(|a, b| a.frames.cmp(&b.frames));
        lines.dedup_by(|next, kept| {
            let same = next.frames == kept.frames;
            if same {
                for (sum, value) in kept.values.iter_mut().zip(next.values) {
                    *sum = sum.saturating_add(value);
                }
            }
            same
        });
        Self { frames, lines }
    }

    /// Appends a line's names to `to`, joined by semicolons.
    pub(super) fn push_stack(&self, line: &Line<N>, to: &mut String) {
        for (index, &frame) in line.frames.iter().enumerate() {
            if index > 0 {
                to.push(';');
            }
            to.push_str(&self.frames[frame as usize].name);
        }
    }

    /// The sum of all values of the profile `which`; `None` beyond 2^53, where arithmetic on it would no longer be
    /// exact in every reader (JavaScript's numbers) and sums in signed 64 bits could overflow.
    pub(super) fn total(&self, which: usize) -> Option<u64> {
        self.lines
            .iter()
            .try_fold(0_u64, |sum, line| sum.checked_add(line.values[which]))
            .filter(|&total| total <= 1 << 53)
    }
}

/// The frames of one sample, the root first.
fn sample_frames(
    names: &mut Names,
    profile: &Profile,
    sample: &Sample,
    of_location: &[Vec<u32>],
) -> Vec<u32> {
    let process = &profile.processes[sample.process as usize].name;
    let locations = &profile.stacks[sample.stack as usize].locations;
    let mut frames = Vec::with_capacity(locations.len() + 2);
    frames.push(names.id(process, Role::Root));
    if sample.thread_name != *process {
        frames.push(names.id(&sample.thread_name, Role::Root));
    }
    for &location in locations.iter().rev() {
        frames.extend_from_slice(&of_location[location as usize]);
    }
    frames
}

/// The frames of one location, the outermost function first.
fn location_frames(names: &mut Names, profile: &Profile, location: &Location) -> Vec<u32> {
    let outermost = match location.kind {
        FrameKind::Kernel => Role::Kernel,
        FrameKind::Native => Role::Native,
        FrameKind::Interpreted => Role::Interpreted,
    };
    let roles = std::iter::once(outermost).chain(std::iter::repeat(Role::Inlined));
    let lines = location.lines.iter().rev().zip(roles);
    lines.map(|(line, role)| names.id(&profile.functions[line.function as usize].name, role)).collect()
}

/// Names by number.
#[derive(Default)]
struct Names {
    ids: HashMap<String, u32>,
    roles: Vec<Role>,
}

impl Names {
    fn id(&mut self, name: &str, role: Role) -> u32 {
        let written = written(name, role);
        if let Some(&id) = self.ids.get(written.as_ref()) {
            let known = &mut self.roles[id as usize];
            if *known == Role::Root {
                *known = role;
            }
            return id;
        }
        let id = self.roles.len() as u32;
        self.ids.insert(written.into_owned(), id);
        self.roles.push(role);
        id
    }

    /// The frames in the order of their names, and the place of each id in it.
    fn sorted(self) -> (Vec<Frame>, Vec<u32>) {
        let mut named: Vec<(String, u32)> = self.ids.into_iter().collect();
        named.sort_unstable();
        let mut rank = vec![0; named.len()];
        let mut frames = Vec::with_capacity(named.len());
        for (place, (name, id)) in named.into_iter().enumerate() {
            rank[id as usize] = place as u32;
            frames.push(Frame { name, role: self.roles[id as usize] });
        }
        (frames, rank)
    }
}

/// A name as it stands in a line of folded stacks.
fn written(name: &str, role: Role) -> Cow<'_, str> {
    let mut name = text::clean(name);
    if name.contains(';') {
        // perf's folding does the same; `[u8; 4]` reads well as `[u8: 4]`.
        name = Cow::Owned(name.replace(';', ":"));
    }
    // "worker 12" at the end of a line would read as a stack with two counts, which is how differences are written,
    // and "# x" at its beginning as a comment: a no-break space looks the same and is neither.
    if let Some((head, tail)) = name.rsplit_once(' ')
        && tail.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        name = Cow::Owned(format!("{head}\u{a0}{tail}"));
    }
    if let Some(rest) = name.strip_prefix("# ") {
        name = Cow::Owned(format!("#\u{a0}{rest}"));
    }
    if role.suffix().is_empty() { name } else { name + role.suffix() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_cannot_break_a_line() {
        assert_eq!(written("a;b\nc", Role::Native), "a:b c");
        assert_eq!(written("[u8; 4]", Role::Kernel), "[u8: 4]_[k]");
        assert_eq!(written("worker 12", Role::Root), "worker\u{a0}12");
        assert_eq!(written("worker 1.5", Role::Interpreted), "worker\u{a0}1.5_[j]");
        assert_eq!(written("# comment", Role::Root), "#\u{a0}comment");
        assert_eq!(written("", Role::Inlined), "[unknown]_[i]");
        assert_eq!(written(" ; ", Role::Root), ":");
        assert!(matches!(written("main", Role::Native), Cow::Borrowed("main")));
    }

    #[test]
    fn writing_a_written_name_again_changes_nothing() {
        for name in ["a;b", "worker 12", "# x", "\u{a0}", "x 1 2 3", "", "# 1"] {
            let once = written(name, Role::Root).into_owned();
            assert_eq!(written(&once, Role::Root), once);
        }
    }
}
