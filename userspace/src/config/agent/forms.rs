//! What values settings may have: reading them from wherever they come, and saying what is allowed.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::config::duration;

/// A value as its source gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// From a flag or a variable, which know no types.
    Word(String),
    /// A string of the file.
    Text(String),
    /// A number of the file, as it is written there.
    Number(String),
    /// An array of strings of the file.
    List(Vec<String>),
    /// Anything else of the file: no setting is of such a type.
    Other,
}

impl Raw {
    fn number<T: FromStr>(&self) -> Option<T> {
        let (Self::Word(text) | Self::Number(text)) = self else { return None };
        text.trim().parse().ok()
    }

    fn text(&self) -> Option<&str> {
        let (Self::Word(text) | Self::Text(text)) = self else { return None };
        Some(text.trim())
    }
}

/// A set of values.
pub trait Form {
    /// Their type.
    type Value;

    /// The value, where `raw` is in the set.
    fn read(&self, raw: &Raw) -> Option<Self::Value>;

    /// The set in words, after "takes".
    fn allowed(&self) -> String;

    /// What helps whoever has met an error, after [`Form::allowed`].
    fn remark(&self) -> String {
        String::new()
    }
}

/// A loopback address and a port. What listens elsewhere would have to know whom it talks to.
pub struct Loopback;

impl Form for Loopback {
    type Value = SocketAddr;

    fn read(&self, raw: &Raw) -> Option<SocketAddr> {
        raw.text()?.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
    }

    fn allowed(&self) -> String {
        "a loopback address and a port".into()
    }

    fn remark(&self) -> String {
        ", such as 127.0.0.1:9464 or [::1]:9464; other addresses have to wait until the agent knows tokens and TLS"
            .into()
    }
}

/// A duration between two, both inclusive.
pub struct Span(pub Duration, pub Duration);

impl Form for Span {
    type Value = Duration;

    fn read(&self, raw: &Raw) -> Option<Duration> {
        let (Raw::Word(text) | Raw::Text(text) | Raw::Number(text)) = raw else { return None };
        duration::parse(text.trim()).ok().filter(|duration| (self.0..=self.1).contains(duration))
    }

    fn allowed(&self) -> String {
        format!("a duration from {} to {}", duration::text(self.0), duration::text(self.1))
    }
}

/// A whole number between two, both inclusive.
pub struct Count(pub u32, pub u32);

impl Form for Count {
    type Value = u32;

    fn read(&self, raw: &Raw) -> Option<u32> {
        raw.number().filter(|number| (self.0..=self.1).contains(number))
    }

    fn allowed(&self) -> String {
        format!("a whole number from {} to {}", self.0, self.1)
    }
}

/// A number between two, both inclusive.
pub struct Decimal(pub f64, pub f64);

impl Form for Decimal {
    type Value = f64;

    fn read(&self, raw: &Raw) -> Option<f64> {
        raw.number().filter(|number| (self.0..=self.1).contains(number))
    }

    fn allowed(&self) -> String {
        format!("a number from {} to {}", self.0, self.1)
    }
}

/// One of a few words.
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy> Form for Choice<T> {
    type Value = T;

    fn read(&self, raw: &Raw) -> Option<T> {
        let text = raw.text()?;
        self.0.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
    }

    fn allowed(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        format!("one of {}", names.join(", "))
    }
}

/// The most names in a list, and the most bytes of each: names of systemd units, the longest that there are, have 255.
const MAX_NAMES: usize = 256;
const MAX_NAME_BYTES: usize = 255;

/// A list of names: separated by commas on the command line and in variables, an array of strings in the file.
pub struct Names {
    /// What they are names of.
    pub of: &'static str,
    /// Which there are; `None` where every name may exist.
    pub known: Option<fn() -> Vec<&'static str>>,
}

impl Form for Names {
    type Value = Vec<String>;

    fn read(&self, raw: &Raw) -> Option<Vec<String>> {
        let names: Vec<String> = match raw {
            Raw::Word(text) => {
                text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect()
            }
            Raw::List(names) => names.clone(),
            _ => return None,
        };
        let known = self.known.map(|known| known());
        let is_known = |name: &String| known.as_ref().is_none_or(|known| known.contains(&name.as_str()));
        let is_fit = |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len()) && is_known(name);
        (names.len() <= MAX_NAMES && names.iter().all(is_fit)).then_some(names)
    }

    fn allowed(&self) -> String {
        format!("a list of {}", self.of)
    }

    fn remark(&self) -> String {
        let how = ", as [\"a\", \"b\"] in the file and a,b elsewhere";
        match self.known.map(|known| known()) {
            Some(known) if known.is_empty() => format!("{how}; there is none to name yet"),
            Some(known) => format!("{how}, of: {}", known.join(", ")),
            None => format!("{how}; at most {MAX_NAMES}, of at most {MAX_NAME_BYTES} bytes"),
        }
    }
}
