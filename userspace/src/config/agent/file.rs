//! The agent's file: TOML with one key a setting.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::forms::Raw;
use super::{AgentSettings, SETTINGS};
use crate::error::{Error, Result};

/// Far more than every setting with its longest value; what is larger is another file.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file at `path` over `settings`.
///
/// # Errors
/// It cannot be read, is no TOML, or has a key or value that there is not: told with its line and what is allowed.
pub fn apply(path: &Path, settings: &mut AgentSettings) -> Result<()> {
    apply_text(&path.display().to_string(), &read(path)?, settings)
}

fn read(path: &Path) -> Result<String> {
    let failed = |why: &str, mend: &str| {
        Error::usage(format!("cannot read the settings in {}: {why}", path.display()), mend)
    };
    // Without waiting: a pipe in the place of a file would hold the agent up for ever.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblocking).open(path);
    let of_system = |error: std::io::Error| failed(&error.to_string(), "name a file that can be read");
    let file = file.map_err(of_system)?;
    if !file.metadata().map_err(of_system)?.is_file() {
        return Err(failed("it is no regular file", "name a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(of_system)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed("it is larger than 1 MB", "name the agent's own file: settings need a few lines"));
    }
    String::from_utf8(bytes).map_err(|_| failed("it is no UTF-8", "save it as UTF-8, as TOML has to be"))
}

fn apply_text(name: &str, text: &str, settings: &mut AgentSettings) -> Result<()> {
    let place = |at: usize| {
        let before = text.get(..at).unwrap_or(text);
        format!("{name}, line {}", before.matches('\n').count() + 1)
    };
    let table = DeTable::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let at = error.span().map_or(0, |span| span.start);
        Error::usage(format!("{}: {message}", place(at)), "mend the line; https://toml.io tells the format")
    })?;
    for (key, value) in table.get_ref() {
        let setting = SETTINGS.iter().find(|setting| setting.key == key.get_ref().as_ref());
        let Some(setting) = setting else {
            let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
            return Err(Error::usage(
                format!("{}: there is no setting {}", place(key.span().start), excerpt(text, &key.span())),
                format!("take it out, or name one of: {}", keys.join(", ")),
            ));
        };
        let wrong = || {
            format!(
                "{}: {} cannot be {}",
                place(value.span().start),
                setting.key,
                excerpt(text, &value.span())
            )
        };
        setting.set(settings, &raw(value), wrong)?;
    }
    Ok(())
}

/// What stands in the file, as far as it is fit for an error's line.
fn excerpt(text: &str, span: &Range<usize>) -> String {
    const MAX_CHARACTERS: usize = 60;
    let text = text.get(span.clone()).unwrap_or_default();
    let mut shown: String = text.chars().take(MAX_CHARACTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.replace(|character: char| character.is_control(), " ")
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Raw::Number(number.as_str().into()),
        DeValue::Float(number) => Raw::Number(number.as_str().into()),
        DeValue::Array(values) => {
            let text = |value: &Spanned<DeValue<'_>>| value.get_ref().as_str().map(str::to_owned);
            values.iter().map(text).collect::<Option<_>>().map_or(Raw::Other, Raw::List)
        }
        _ => Raw::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(text: &str) -> Result<AgentSettings> {
        let mut settings = AgentSettings::defaults()?;
        apply_text("f.toml", text, &mut settings).map(|()| settings)
    }

    #[test]
    fn every_type_of_value_is_read() {
        let settings = apply(
            "# all\nlisten = \"[::1]:80\"\ninterval = \"500ms\"\nwindow = 90\nmax_series = 5_000\n\
             cpu_budget_percent = 2\nfull_syscalls = \"auto\"\nfull_services = [\"a,b\", \"c\"]\n",
        )
        .expect("all is allowed");
        assert_eq!(settings.listen.to_string(), "[::1]:80");
        assert_eq!((settings.interval.as_millis(), settings.window.as_secs()), (500, 90));
        assert_eq!((settings.max_series, settings.full_services.len()), (5000, 2));
        assert_eq!(settings.full_services[0], "a,b");
        assert_eq!(apply("").expect("an empty file"), AgentSettings::defaults().expect("defaults"));
    }

    #[test]
    fn errors_name_file_line_key_and_what_is_allowed() {
        for (text, what, mend) in [
            (
                "\nintervall = 1",
                "f.toml, line 2: there is no setting intervall",
                "one of: listen, interval, ",
            ),
            ("[agent]\nlisten = 1", "f.toml, line 1: there is no setting agent", "one of: listen"),
            (
                "interval = \"5ms\"",
                "f.toml, line 1: interval cannot be \"5ms\"",
                "a duration from 100ms to 60s",
            ),
            ("#\n#\ninterval = true", "f.toml, line 3: interval cannot be true", "interval takes a duration"),
            (
                "max_series = \"9\"",
                "f.toml, line 1: max_series cannot be \"9\"",
                "a whole number from 3000 to",
            ),
            ("max_series = 0x100", "f.toml, line 1: max_series cannot be 0x100", "a whole number"),
            ("max_series = 1.5", "f.toml, line 1: max_series cannot be 1.5", "a whole number"),
            ("cpu_budget_percent = nan", "cpu_budget_percent cannot be nan", "a number from 0.1 to 100"),
            ("listen = \"0.0.0.0:9464\"", "listen cannot be \"0.0.0.0:9464\"", "tokens and TLS"),
            ("full_services = [1]", "full_services cannot be [1]", "a list of services"),
            ("full_services = \"a\"", "full_services cannot be \"a\"", "[\"a\", \"b\"] in the file"),
            ("full_services = [\"\"]", "full_services cannot be [\"\"]", "a list of services"),
            ("disabled_probes = [\"no\"]", "disabled_probes cannot be [\"no\"]", "of: cpu, "),
            ("a = 1\na = 2", "f.toml, line 2: duplicate key", "https://toml.io"),
            ("interval = ", "f.toml, line 1: ", "mend the line"),
            ("\n\nx = [[[[", "f.toml, line 3: ", "mend the line"),
        ] {
            let error = apply(text).expect_err(text);
            assert!(error.what.contains(what), "{text}: {}", error.what);
            assert!(error.mend.contains(mend), "{text}: {}", error.mend);
            assert!(!error.to_string().trim_end().contains("\n\n"), "{error}");
        }
    }

    #[test]
    fn deep_nesting_and_long_values_are_errors_and_no_more() {
        for text in
            ["x = ".to_owned() + &"[".repeat(100_000), "listen = \"".to_owned() + &"é".repeat(9999) + "\""]
        {
            let error = apply(&text).expect_err("nonsense");
            assert!(error.what.len() < 300, "{}", error.what);
        }
    }

    #[test]
    fn what_is_no_small_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let large = folder.path().join("large");
        std::fs::write(&large, vec![b'#'; 1 << 21]).expect("a file");
        let latin = folder.path().join("latin");
        std::fs::write(&latin, b"# \xe9").expect("a file");
        for (path, why) in [
            (large, "larger than 1 MB"),
            (latin, "no UTF-8"),
            (folder.path().into(), "no regular file"),
            (folder.path().join("none"), "No such file"),
            ("/dev/zero".into(), "no regular file"),
        ] {
            let error = read(&path).expect_err("refused");
            assert!(error.what.contains(why) && error.what.contains(&*path.display().to_string()), "{error}");
        }
    }
}
