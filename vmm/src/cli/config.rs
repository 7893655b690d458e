//! `--config vm.toml`: what the flags of `ftvm run` and `ftvm backup` say, in a file.
//!
//! The keys are the flags' long names, and clap is the judge of both: what the file says is put
//! before what the person says, and parsed as if it had been typed. Flags win: a key whose flag is
//! given, or that a given flag excludes, is passed over.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::builder::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use toml::{Table, Value};

/// The commands that take a file.
const COMMANDS: [&str; 2] = ["run", "backup"];

/// The flag that names the file, which the file itself cannot have.
const FLAG: &str = "config";

/// The command line with what its `--config` file says put in, if it names one.
///
/// # Errors
///
/// If the file cannot be read, or says something that the command does not take; the file and the
/// key are named. What is wrong with the command line itself is left to its own parsing.
pub(super) fn expand(program: &Command, given: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let name = given.get(1).and_then(|word| word.to_str());
    let Some(name) = name.filter(|name| COMMANDS.contains(name)) else {
        return Ok(given);
    };
    let command = program
        .find_subcommand(name)
        .expect("a command of this program");
    // What the file will say is not missing yet.
    let relaxed = command.clone().mut_args(|arg| arg.required(false));
    let typed = &given[1..];
    let Ok(matches) = relaxed.clone().try_get_matches_from(typed) else {
        return Ok(given);
    };
    let Some(path) = matches.get_one::<PathBuf>(FLAG) else {
        return Ok(given);
    };
    let file = File {
        command: &relaxed,
        path,
        typed,
    };
    let said = file.arguments(&matches)?;
    let (program_and_command, rest) = given.split_at(2);
    Ok([program_and_command, &said, rest].concat())
}

struct File<'a> {
    /// With nothing required.
    command: &'a Command,
    path: &'a Path,
    /// From the command's name on.
    typed: &'a [OsString],
}

impl File<'_> {
    /// What the file says beyond the command line.
    fn arguments(&self, matches: &ArgMatches) -> anyhow::Result<Vec<OsString>> {
        let shown = self.path.display();
        let text = std::fs::read_to_string(self.path)
            .with_context(|| format!("reading the configuration {shown}"))?;
        let table: Table = text
            .parse()
            .map_err(|error| anyhow::anyhow!("{shown} is no TOML: {error}"))?;
        let mut said = Vec::new();
        for (key, value) in &table {
            let here = || format!("in {shown}, key {key:?}");
            let arg = self.known(key).with_context(here)?;
            let argument = self.argument(arg, key, value).with_context(here)?;
            let source = matches.value_source(arg.get_id().as_str());
            if let Some(argument) = argument
                && source != Some(ValueSource::CommandLine)
                && !self.is_excluded(&argument)
            {
                said.push(argument);
            }
        }
        Ok(said)
    }

    /// The flag that says the same as a key; `None` for a switch that is off.
    fn argument(&self, arg: &Arg, key: &str, value: &Value) -> anyhow::Result<Option<OsString>> {
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let text = match (value, is_switch) {
            (Value::Boolean(on), true) => {
                return Ok(on.then(|| format!("--{key}").into()));
            }
            (_, true) => bail!("it is a switch: write true or false"),
            (Value::Array(items), _) if arg.get_value_delimiter().is_some() => {
                let items: Option<Vec<String>> = items.iter().map(plain).collect();
                let items = items.context("it is a list of texts: write [\"…\", \"…\"]")?;
                items.join(",")
            }
            (value, _) => plain(value).context("it has one value: write a text or a number")?,
        };
        let argument = OsString::from(format!("--{key}={text}"));
        // Alone, so that the error is about it.
        let alone = [OsString::from(self.command.get_name()), argument.clone()];
        match self.command.clone().try_get_matches_from(alone) {
            Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => {
                bail!("{}", reason(&error))
            }
            _ => Ok(Some(argument)),
        }
    }

    /// The argument of a key.
    fn known(&self, key: &str) -> anyhow::Result<&Arg> {
        let is_key = |arg: &&Arg| arg.get_long() == Some(key) && key != FLAG;
        if let Some(arg) = self.command.get_arguments().find(is_key) {
            return Ok(arg);
        }
        let name = self.command.get_name();
        match self.nearest(key) {
            Some(nearest) => bail!("there is no such key; did you mean {nearest:?}?"),
            None => bail!("there is no such key: `ftvm {name} --help` has them all"),
        }
    }

    /// The known key that looks most like `key`, if any does.
    fn nearest(&self, key: &str) -> Option<String> {
        let words = [self.command.get_name().to_owned(), format!("--{key}")];
        let error = self.command.clone().try_get_matches_from(words).err()?;
        match error.get(ContextKind::SuggestedArg)? {
            ContextValue::String(flag) => Some(flag.trim_start_matches('-').to_owned()),
            _ => None,
        }
    }

    /// Whether a typed flag excludes what a key says.
    fn is_excluded(&self, argument: &OsString) -> bool {
        let words = self.typed.iter().chain([argument]);
        let parsed = self.command.clone().try_get_matches_from(words);
        parsed.is_err_and(|error| error.kind() == ErrorKind::ArgumentConflict)
    }
}

/// A value that can be typed as one word.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The part of clap's message that says what is wrong, without its usage.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}
