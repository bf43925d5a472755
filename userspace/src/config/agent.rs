//! The agent's settings: one table, from which flags, environment variables, the file's keys, defaults and the reference
//! all come.

mod file;
mod forms;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hostscope_wire::PROBES;

use crate::error::{Error, Result};
use crate::metrics::{METRICS, Scope};
use forms::{Choice, Count, Decimal, Form, Loopback, Names, Raw, Span};

/// When every system call is timed, and not only those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullSyscalls {
    /// Never.
    Off,
    /// While the budget allows.
    Auto,
    /// Always.
    On,
}

/// One line of the table.
pub struct Setting {
    /// The file's key. The flag is `--key` with hyphens, the variable `HOSTSCOPE_KEY` in capitals.
    pub key: &'static str,
    /// As a flag's text.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// Whether SIGHUP can change it.
    pub changes_while_running: bool,
    read: fn(&mut AgentSettings, &Raw) -> bool,
    allowed: fn() -> String,
    remark: fn() -> String,
    keep: fn(&mut AgentSettings, &AgentSettings) -> bool,
}

macro_rules! settings {
    ($(#[doc = $help:literal] $key:ident: $type:ty = $default:literal, $form:expr, $changes:expr;)*) => {
        /// The agent's settings, validated.
        #[derive(Debug, Clone, PartialEq)]
        pub struct AgentSettings {
            $(#[doc = $help] pub $key: $type,)*
        }

        /// Every setting, in the order of the reference.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            key: stringify!($key),
            default: $default,
            help: $help.trim_ascii_start(),
            changes_while_running: $changes,
            read: |settings, raw| $form.read(raw).map(|value| settings.$key = value).is_some(),
            allowed: || $form.allowed(),
            remark: || $form.remark(),
            keep: |settings, running| {
                let wanted = std::mem::replace(&mut settings.$key, running.$key.clone());
                wanted.ne(&running.$key)
            },
        },)*];

        impl AgentSettings {
            /// What holds where nothing else is said.
            ///
            /// # Errors
            /// Never: a test reads every default.
            pub fn defaults() -> Result<Self> {
                Ok(Self {$(
                    $key: $form.read(&Raw::Word($default.into())).ok_or_else(|| Error::failed(
                        concat!("the default of ", stringify!($key), " is not allowed"),
                        "this is a fault of hostscope: report it",
                    ))?,
                )*})
            }
        }
    };
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The least budget of series: some 1,500 of it are for `~other`, and without the rest nothing would have a series of its own.
pub const LEAST_MAX_SERIES: u32 = 3_000;

/// Whether SIGHUP changes a setting.
const CHANGES: bool = true;
const STAYS: bool = false;

// The bounds: below 100 ms reading costs more than is learnt, above a minute a scrape sees the same twice; a window
// of an hour would hold 3,600 intervals; 1,000,000 series are more than a Prometheus should take from one host.
settings! {
    /// Address and port of metrics and API
    listen: SocketAddr = "127.0.0.1:9464", Loopback, STAYS;
    /// How often the kernel's figures are read
    interval: Duration = "1s", Span(Duration::from_millis(100), seconds(60)), CHANGES;
    /// The time that rates and percentiles of the API are about
    window: Duration = "60s", Span(seconds(10), seconds(3600)), CHANGES;
    /// Most series of a scrape; services beyond share `~other`
    max_series: u32 = "20000", Count(LEAST_MAX_SERIES, 1_000_000), CHANGES;
    /// Most series of one family of metrics
    family_max_series: u32 = "2000", Count(10, 1_000_000), CHANGES;
    /// How long the series of a service stay after it has gone
    service_grace: Duration = "10m", Span(seconds(10), seconds(24 * 3600)), CHANGES;
    /// Metrics of the host that shall have the label `service` too
    by_service: Vec<String> = "", Names { of: "metrics", known: Some(metrics_of_host) }, CHANGES;
    /// What the agent may use of the host's CPUs
    cpu_budget_percent: f64 = "1.0", Decimal(0.1, 100.0), CHANGES;
    /// Time every system call, not only those that wait: auto does while the budget allows
    full_syscalls: FullSyscalls = "off", Choice(FULL_SYSCALLS), CHANGES;
    /// Services whose system calls are all timed
    full_services: Vec<String> = "", Names { of: "services", known: None }, CHANGES;
    /// Probes to leave out; those of soft interrupts cost a busy web server more than a percent
    disabled_probes: Vec<String> = "softirq_entry", Names { of: "probes", known: Some(probes) }, CHANGES;
}

const FULL_SYSCALLS: &[(&str, FullSyscalls)] =
    &[("off", FullSyscalls::Off), ("auto", FullSyscalls::Auto), ("on", FullSyscalls::On)];

fn metrics_of_host() -> Vec<&'static str> {
    let of_host = METRICS.iter().filter(|metric| metric.scope == Scope::Host);
    of_host.map(|metric| metric.name).filter(|name| !name.starts_with("hostscope_agent_")).collect()
}

fn probes() -> Vec<&'static str> {
    PROBES.iter().map(|probe| probe.name).collect()
}

impl Setting {
    /// The flag's name, without the hyphens before it.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The variable's name.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HOSTSCOPE_{}", self.key.to_uppercase())
    }

    /// What values there are, in words.
    #[must_use]
    pub fn allowed(&self) -> String {
        (self.allowed)()
    }

    /// The mend of an error.
    fn mend(&self) -> String {
        format!("{} takes {}{}", self.key, (self.allowed)(), (self.remark)())
    }

    fn set(&self, settings: &mut AgentSettings, raw: &Raw, what: impl FnOnce() -> String) -> Result<()> {
        if (self.read)(settings, raw) {
            return Ok(());
        }
        Err(Error::usage(what(), self.mend()))
    }
}

impl AgentSettings {
    /// Takes from `running` what cannot change before the next start; the keys of what would have.
    pub fn keep_what_stays(&mut self, running: &Self) -> Vec<&'static str> {
        let staying = SETTINGS.iter().filter(|setting| !setting.changes_while_running);
        staying.filter(|setting| (setting.keep)(self, running)).map(|setting| setting.key).collect()
    }
}

/// The variable that names the file where no flag does.
pub const FILE_VARIABLE: &str = "HOSTSCOPE_CONFIG";

/// Where settings come from. Kept, so that the file can be read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Keys and texts of the flags that were given.
    pub flags: Vec<(&'static str, String)>,
    /// Keys and texts of the variables that are set.
    pub variables: Vec<(&'static str, String)>,
    /// The file, where there is one.
    pub file: Option<PathBuf>,
}

impl Sources {
    /// Flags and file as given, and what the environment of this process says.
    ///
    /// # Errors
    /// A variable is not UTF-8.
    pub fn new(flags: Vec<(&'static str, String)>, file: Option<PathBuf>) -> Result<Self> {
        let mut variables = Vec::new();
        for setting in SETTINGS {
            let name = setting.variable();
            let Some(value) = std::env::var_os(&name) else { continue };
            let value = value.into_string().map_err(|value| {
                Error::usage(format!("{name}={} is not UTF-8", value.display()), setting.mend())
            })?;
            variables.push((setting.key, value));
        }
        let named = || std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(Into::into);
        Ok(Self { flags, variables, file: file.or_else(named) })
    }

    /// Reads the file and puts all together: a flag comes before a variable, that before the file, that before the
    /// default. What is overruled has to be allowed all the same.
    ///
    /// # Errors
    /// A value is not allowed, the file has a key that there is not, or cannot be read: each says where.
    pub fn resolve(&self) -> Result<AgentSettings> {
        let mut settings = AgentSettings::defaults()?;
        if let Some(path) = &self.file {
            file::apply(path, &mut settings)?;
        }
        let of = |key: &str| SETTINGS.iter().find(|setting| setting.key == key);
        for (key, value) in &self.variables {
            let Some(setting) = of(key) else { continue };
            let what = || format!("the environment's {} cannot be {value:?}", setting.variable());
            setting.set(&mut settings, &Raw::Word(value.clone()), what)?;
        }
        for (key, value) in &self.flags {
            let Some(setting) = of(key) else { continue };
            let what = || format!("--{} cannot be {value:?}", setting.flag());
            setting.set(&mut settings, &Raw::Word(value.clone()), what)?;
        }
        if settings.window < settings.interval {
            return Err(Error::usage(
                format!(
                    "a window of {:?} is shorter than the interval of {:?}",
                    settings.window, settings.interval
                ),
                "make the window the longer one: it is made of intervals",
            ));
        }
        Ok(settings)
    }
}

/// The table of settings as Markdown, for the README.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("| key | default | takes | what it does |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "none" } else { setting.default };
        let at_start = if setting.changes_while_running { "" } else { " (read at the start only)" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {default} | {} | {}{at_start} |",
            setting.key,
            setting.allowed(),
            setting.help,
        );
    }
    text
}

#[cfg(test)]
mod tests;
