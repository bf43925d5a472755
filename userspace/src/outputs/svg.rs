//! Flame graphs (`.svg`), drawn by inferno: they zoom and search in any browser, with nothing else needed.

use std::fmt::Write as _;
use std::io::{self, Write};

use inferno::flamegraph::color::{Color, PaletteMap};
use inferno::flamegraph::{self, Options, TextTruncateDirection};

use crate::profile::Profile;

use super::frames::{Folding, Role};
use super::{Output, text, title};

/// Flame graphs.
pub(super) struct FlameGraph;

impl Output for FlameGraph {
    fn extension(&self) -> &'static str {
        ".svg"
    }

    fn describe(&self) -> &'static str {
        "flame graph for any browser"
    }

    fn content_type(&self) -> &'static str {
        "image/svg+xml"
    }

    fn write(&self, profile: &Profile, to: &mut dyn Write) -> io::Result<()> {
        let count_index = profile.count_index();
        let folding = Folding::new([(profile, count_index)]);
        let total = folding.total(0).ok_or_else(too_many)?;
        let mut lines = String::new();
        for line in &folding.lines {
            folding.push_stack(line, &mut lines);
            let _ = writeln!(lines, " {}", line.values[0]);
        }
        let mut colors = palette(&folding);
        let mut graph = Graph {
            title: title(profile),
            subtitle: subtitle(profile, total),
            count_name: profile
                .value_types
                .get(count_index)
                .map_or("samples", |t| t.name.as_str())
                .to_owned(),
            legend: &LEGEND,
            colors: Some(&mut colors),
        };
        graph.draw(&lines, to)
    }
}

/// The numbers of a profile add up to more than can be drawn.
pub(super) fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the numbers of the profile add up to more than 2^53")
}

/// What colours mean, in the order in which a legend names them.
const LEGEND: [(Color, &str); 4] = [
    (base_color(Role::Kernel), "kernel"),
    (base_color(Role::Native), "native"),
    (base_color(Role::Inlined), "inlined"),
    (base_color(Role::Interpreted), "interpreted"),
];

/// The colour in the middle of what [`color`] gives a role. The hues are those that inferno and flamegraph.pl use
/// for kernel (orange), inlined (aqua) and JIT (green); black text is readable on all of them.
const fn base_color(role: Role) -> Color {
    match role {
        Role::Root => Color { r: 205, g: 205, b: 215 },
        Role::Native => Color { r: 235, g: 110, b: 105 },
        Role::Inlined => Color { r: 95, g: 190, b: 195 },
        Role::Interpreted => Color { r: 110, g: 210, b: 100 },
        Role::Kernel => Color { r: 240, g: 160, b: 60 },
    }
}

/// The colour of a frame: its role's, a little lighter or darker by its name so that neighbours can be told apart;
/// a function has one colour in all graphs.
fn color(name: &str, role: Role) -> Color {
    // FNV-1a: any hash that is the same everywhere would do.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let base = base_color(role);
    let shade = match role {
        Role::Root => 0,
        _ => (hash >> 32) % 41,
    };
    let shaded = |channel: u8| (u64::from(channel) + shade).saturating_sub(20).min(255) as u8;
    Color { r: shaded(base.r), g: shaded(base.g), b: shaded(base.b) }
}

/// The colours of all frames. Were they left to inferno, it would guess from names: `PyEval_EvalFrame` would be Java.
fn palette<const N: usize>(folding: &Folding<N>) -> PaletteMap {
    let mut colors = PaletteMap::default();
    // The frame below all others, which inferno adds.
    colors.insert("", base_color(Role::Root));
    for frame in &folding.frames {
        colors.insert(&frame.name, color(&frame.name, frame.role));
    }
    colors
}

/// `web-1 · 30 s at 99 Hz · 12,345 samples · 2025-01-31 23:59:59 UTC`, without what is not known.
fn subtitle(profile: &Profile, total: u64) -> String {
    let mut parts = Vec::new();
    if !profile.host.is_empty() {
        // Hosts' names go up to 64 characters; what is longer than this would run into the legend.
        parts.push(text::shorten(&text::clean(&profile.host), 32).into_owned());
    }
    if profile.duration_ns > 0 {
        let duration = text::duration(profile.duration_ns);
        parts.push(match profile.frequency_hertz {
            0 => duration,
            hertz => format!("{duration} at {hertz} Hz"),
        });
    }
    parts.push(format!("{} samples", text::grouped(total)));
    if profile.start_unix_ns > 0 {
        parts.push(text::date(profile.start_unix_ns, "%Y-%m-%d %H:%M:%S UTC"));
    }
    parts.join(" · ")
}

/// All of a flame graph but its stacks.
pub(super) struct Graph<'a> {
    pub(super) title: String,
    pub(super) subtitle: String,
    /// What is counted, in the plural.
    pub(super) count_name: String,
    pub(super) legend: &'a [(Color, &'a str)],
    /// The colour of every name; `None` for a difference, whose colours come from the counts.
    pub(super) colors: Option<&'a mut PaletteMap>,
}

impl Graph<'_> {
    /// Draws lines of folded stacks, sorted frame by frame, with one count or with two.
    pub(super) fn draw(&mut self, lines: &str, to: &mut dyn Write) -> io::Result<()> {
        if lines.is_empty() {
            return self.draw_empty(to);
        }
        let mut options = Options::default();
        options.title.clone_from(&self.title);
        options.subtitle = Some(self.subtitle.clone());
        options.count_name.clone_from(&self.count_name);
        options.palette_map = self.colors.take();
        // A name's beginning tells more than the end of its parameters.
        options.text_truncate_direction = TextTruncateDirection::Right;
        // inferno sorts lines as bytes, which cuts frames in two (`a`, `a.b`, `a;c`), and refuses some orders of
        // names with spaces; a flame chart is the same drawing in the order given, which it takes from the end.
        options.flame_chart = true;
        let mut svg = Vec::with_capacity(lines.len());
        flamegraph::from_lines(&mut options, lines.lines().rev(), &mut svg)?;
        let body = svg.strip_suffix(b"</svg>").unwrap_or(&svg);
        to.write_all(body)?;
        self.write_legend(to)?;
        to.write_all(b"</svg>\n")
    }

    /// The legend, at the left of the subtitle's line.
    fn write_legend(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut x = 10;
        write!(to, r#"<g id="legend">"#)?;
        for (color, word) in self.legend {
            let Color { r, g, b } = color;
            write!(to, r#"<rect x="{x}" y="39" width="10" height="10" fill="rgb({r},{g},{b})"/>"#)?;
            write!(to, r#"<text x="{}" y="48">{word}</text>"#, x + 13)?;
            // A character of 12-pixel monospace is 7.1 pixels wide; then the square and a gap.
            x += 13 + word.len() * 71 / 10 + 10;
        }
        write!(to, "</g>")
    }

    /// A picture that says that there is nothing: an idle process is no error.
    fn draw_empty(&self, to: &mut dyn Write) -> io::Result<()> {
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(
            to,
            r##"<?xml version="1.0" standalone="no"?><svg version="1.1" width="1200" height="120" viewBox="0 0 1200 120" xmlns="http://www.w3.org/2000/svg"><rect width="100%" height="120" fill="#eeeeee"/><g font-family="monospace" font-size="12" text-anchor="middle"><text x="50%" y="24" font-size="17">{}</text><text x="50%" y="48">{}</text><text x="50%" y="84">No samples were taken: what was watched did not run.</text></g></svg>"##,
            escape(&self.title),
            escape(&self.subtitle),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_without_samples_is_a_picture_that_says_so() {
        let mut profile = Profile::empty();
        profile.target = "a <b> & c".into();
        let mut svg = Vec::new();
        FlameGraph.write(&profile, &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("No samples were taken"));
        assert!(svg.contains("CPU profile: a &lt;b&gt; &amp; c"));
    }

    #[test]
    fn names_that_sort_badly_as_bytes_do_not_cut_a_frame_in_two() {
        let profile = super::super::folded::parse("p;a 1\np;a.b 1\np;a;c 1\np;x 1y 1\np;x 5\n").unwrap();
        let mut svg = Vec::new();
        FlameGraph.write(&profile, &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("<title>a (2 samples, 22.22%)</title>"), "{svg}");
        assert!(svg.contains("<title>x (5 samples, 55.56%)</title>"), "{svg}");
    }

    #[test]
    fn numbers_beyond_what_can_be_drawn_are_refused() {
        let profile = super::super::folded::parse("p;a 18446744073709551615\np;b 1\n").unwrap();
        assert_eq!(
            FlameGraph.write(&profile, &mut Vec::new()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
