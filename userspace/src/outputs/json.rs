//! hostscope's own format (`.json`): a [`Profile`] whole, nothing lost, stable.
//!
//! One JSON object. `"format"` is `"hostscope-profile"` and `"version"` the number of this description, 1; the other
//! members are the fields of [`Profile`] under their names, with the meanings and units that its documentation gives.
//! Tables refer to each other by zero-based index (`stacks[].locations[]` into `locations`, and so on). `kind` is a
//! word of [`crate::config::Kind`] (`"cpu"`), `locations[].kind` one of `"kernel"`, `"native"`, `"interpreted"`;
//! numbers are integers up to 2^64−1, addresses among them, so a reader in JavaScript must take care beyond 2^53.
//! Readers ignore members that they do not know: new ones may come without a new version. A member is removed or
//! changes its meaning only with a new version.

use std::io;

use serde::{Deserialize, Serialize};

use crate::profile::Profile;

use super::Output;

/// What `"format"` says.
const FORMAT: &str = "hostscope-profile";

/// The version written, and the latest that can be read.
const VERSION: u32 = 1;

/// hostscope's own format.
pub(super) struct Json;

/// The whole file.
#[derive(Serialize)]
struct File<'a> {
    format: &'static str,
    version: u32,
    #[serde(flatten)]
    profile: &'a Profile,
}

/// What tells whether the rest can be read.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

impl Output for Json {
    fn extension(&self) -> &'static str {
        ".json"
    }

    fn describe(&self) -> &'static str {
        "hostscope's own format, for `hostscope diff` and scripts"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn write(&self, profile: &Profile, to: &mut dyn io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut *to, &File { format: FORMAT, version: VERSION, profile })?;
        to.write_all(b"\n")
    }
}

/// Reads what [`Json`] writes.
pub(super) fn parse(bytes: &[u8]) -> Result<Profile, String> {
    let header: Header =
        serde_json::from_slice(bytes).map_err(|error| format!("this JSON is not a {FORMAT}: {error}"))?;
    if header.format != FORMAT {
        return Err(format!("its format is not {FORMAT} but another"));
    }
    if header.version > VERSION {
        let version = header.version;
        return Err(format!(
            "a newer hostscope wrote it (format version {version}, this one reads up to {VERSION})"
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("its JSON is damaged: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_says_why() {
        for (text, why) in [
            (
                r#"{"$schema":"https://www.speedscope.app/file-format-schema.json"}"#,
                "not a hostscope-profile",
            ),
            (r#"{"format":"other","version":1}"#, "not hostscope-profile but another"),
            (r#"{"format":"hostscope-profile","version":2}"#, "a newer hostscope wrote it (format version 2"),
            (r#"{"format":"hostscope-profile","version":1}"#, "damaged: missing field"),
            (r#"{"format":"hostscope-profile","version":1,"#, "not a hostscope-profile"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn unknown_members_are_ignored() {
        let mut text = Vec::new();
        Json.write(&Profile::empty(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap().replacen('{', r#"{"later":[1],"#, 1);
        assert_eq!(parse(text.as_bytes()).unwrap(), Profile::empty());
    }
}
