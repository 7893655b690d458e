//! What a build owes to the person who waits for it: a word on each step, an end when they ask for
//! one, and nothing left behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ImageError;

/// The most of a failed program's words that an error repeats, in characters.
const MAX_QUOTED: usize = 2000;

/// A build under way.
pub struct Job<'a> {
    /// Hears of each step: one line of text.
    pub progress: &'a mut dyn FnMut(&str),
    /// Set by the caller when the build shall end.
    pub interrupted: &'a AtomicBool,
}

impl Job<'_> {
    /// Says what happens next, unless nothing shall.
    pub(super) fn step(&mut self, text: &str) -> Result<(), ImageError> {
        self.check()?;
        (self.progress)(text);
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), ImageError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(ImageError::Interrupted);
        }
        Ok(())
    }

    /// Runs a program of the host, silently, and returns what it wrote to standard output.
    /// `package` is where it comes from.
    pub(super) fn run(
        &mut self,
        command: &mut Command,
        package: &'static str,
    ) -> Result<String, ImageError> {
        self.check()?;
        let name = |command: &Command| command.get_program().to_string_lossy().into_owned();
        let output = command
            .stdin(Stdio::null())
            .env("LC_ALL", "C")
            .output()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ImageError::NoProgram {
                    program: name(command),
                    package,
                },
                _ => ImageError::Command {
                    command: name(command),
                    status: error.to_string(),
                    output: String::new(),
                },
            })?;
        // Ctrl-C in a terminal ends the program as well; that is no failure of its own.
        self.check()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let skipped = words.chars().count().saturating_sub(MAX_QUOTED);
        let arguments = command.get_args().map(|text| text.to_string_lossy());
        Err(ImageError::Command {
            command: std::iter::once(name(command).into())
                .chain(arguments)
                .collect::<Vec<_>>()
                .join(" "),
            status: output.status.to_string(),
            output: words.chars().skip(skipped).collect(),
        })
    }
}

/// A directory that goes away with this value.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes `path`, anew and empty.
    pub(super) fn create(path: PathBuf) -> Result<Self, ImageError> {
        remove_dir(&path)?;
        fs::create_dir_all(&path).map_err(ImageError::io("making", &path))?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next build.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes a directory with what is in it; that it is gone already is fine.
pub(super) fn remove_dir(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ImageError::io("removing", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, interrupted: bool) -> Result<String, ImageError> {
        let interrupted = AtomicBool::new(interrupted);
        let mut job = Job {
            progress: &mut |_| {},
            interrupted: &interrupted,
        };
        job.run(Command::new("sh").args(["-c", script]), "dash")
    }

    #[test]
    fn a_failed_program_is_quoted() {
        assert_eq!(run("echo yes", false).expect("success"), "yes\n");
        let error = run("echo no >&2; exit 3", false).expect_err("failure");
        let text = error.to_string();
        assert!(text.contains("sh -c echo no") && text.contains("exit status: 3"));
        assert!(text.ends_with("no\n"), "{text}");
    }

    #[test]
    fn an_interrupted_job_starts_nothing() {
        assert!(matches!(run("exit 0", true), Err(ImageError::Interrupted)));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let interrupted = AtomicBool::new(false);
        let mut job = Job {
            progress: &mut |_| {},
            interrupted: &interrupted,
        };
        let error = job.run(&mut Command::new("no-such-program"), "its-package");
        let text = error.expect_err("none").to_string();
        assert!(text.contains("no-such-program") && text.contains("its-package"));
    }

    #[test]
    fn a_scratch_directory_goes_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b");
        let scratch = Scratch::create(path.clone()).expect("made");
        fs::write(scratch.path().join("file"), "x").expect("written");
        // What a killed build left behind does not disturb the next.
        let again = Scratch::create(path.clone()).expect("made anew");
        assert_eq!(fs::read_dir(again.path()).expect("there").count(), 0);
        drop(again);
        assert!(!path.exists());
    }
}
