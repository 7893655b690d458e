//! `ftvm image`: Linux guests from Debian's packages, built, listed and removed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use guest_images::linux::{BuildOptions, Built, Cache, Image, ImageError, ImageFile, Job, Package};
use serde::Serialize;

use super::output::json_line;
use super::text::{Table, print, text};

/// Linux guests from Debian's packages.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm image build redis                 Debian's kernel and redis-server
  ftvm image build redis --packages DIR  from package files, on a host without apt
  ftvm image list
  ftvm image remove redis

Nothing here needs root. `ftvm run --guest redis` boots what was built.")]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
    /// Where images are kept, instead of $XDG_CACHE_HOME/ftvm/images.
    #[arg(long, value_name = "DIR", global = true)]
    cache: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Build an image, unless it is there.
    #[command(after_help = "\
Examples:
  ftvm image build busybox             a shell prompt on the serial console
  ftvm image build redis --refresh     anew, from what the archive offers now
  ftvm image build debian --packages /media/debs")]
    Build {
        /// busybox, redis or debian.
        name: String,
        /// Take package files from this directory instead of asking apt.
        #[arg(long, value_name = "DIR")]
        packages: Option<PathBuf>,
        /// Build anew although it is there.
        #[arg(long)]
        refresh: bool,
    },
    /// Which images there are, built or not.
    #[command(after_help = "\
Example:
  ftvm image list --json | jq '.[] | select(.built) | .name'")]
    List,
    /// What an image is made of; checks its files.
    #[command(after_help = "\
Example:
  ftvm image show redis")]
    Show {
        /// Its name.
        name: String,
    },
    /// Remove an image.
    #[command(after_help = "\
Example:
  ftvm image remove redis")]
    Remove {
        /// Its name.
        name: String,
    },
}

/// An image, as `--json` shows it.
#[derive(Debug, Serialize)]
struct ImageReport<'a> {
    name: &'a str,
    about: &'a str,
    built: bool,
    /// Why it is of no use, although there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
    #[serde(flatten)]
    image: Option<BuiltReport<'a>>,
}

#[derive(Debug, Serialize)]
struct BuiltReport<'a> {
    kernel: PathBuf,
    initrd: PathBuf,
    disk: Option<PathBuf>,
    kernel_release: &'a str,
    memory_mib: u32,
    command_line: &'a str,
    bytes: u64,
    packages: &'a [Package],
}

impl<'a> BuiltReport<'a> {
    fn of(image: &'a Image) -> Self {
        let manifest = &image.manifest;
        BuiltReport {
            kernel: image.kernel(),
            initrd: image.initrd(),
            disk: image.disk(),
            kernel_release: &manifest.kernel_release,
            memory_mib: manifest.memory_mib,
            command_line: &manifest.command_line,
            bytes: files(image).map(|file| file.bytes).sum(),
            packages: &manifest.packages,
        }
    }
}

fn files(image: &Image) -> impl Iterator<Item = &ImageFile> {
    let manifest = &image.manifest;
    [&manifest.kernel, &manifest.initrd]
        .into_iter()
        .chain(&manifest.disk)
}

/// `ftvm image`.
pub(super) fn image(args: ImageArgs) -> anyhow::Result<ExitCode> {
    let cache = Cache::open(args.cache.as_deref())?;
    match args.command {
        ImageCommand::Build {
            name,
            packages,
            refresh,
        } => {
            let options = BuildOptions { packages, refresh };
            let built = working(move |cache, job| cache.build(&name, &options, job), cache)?;
            let (image, word) = match &built {
                Built::Already(image) => (image, "is built already"),
                Built::New(image) => (image, "is built"),
            };
            if args.json {
                return show_json(image);
            }
            let name = &image.manifest.name;
            let mib = files(image).map(|file| file.bytes).sum::<u64>() >> 20;
            print(&format_args!(
                "{name} {word}: {mib} MiB in {}, kernel {}. Boot it with `ftvm run --alone \
                 --guest {name}`.\n",
                image.dir.display(),
                image.manifest.kernel_release
            ))?;
        }
        ImageCommand::List => list(&cache, args.json)?,
        ImageCommand::Show { name } => {
            let image = cache.image(&name)?;
            image.verify()?;
            if args.json {
                return show_json(&image);
            }
            show(&image)?;
        }
        ImageCommand::Remove { name } => {
            let removed = name.clone();
            working(move |cache, job| cache.remove(&name, job), cache)?;
            if args.json {
                json_line(&serde_json::json!({ "removed": removed }))?;
            } else {
                print(&format_args!("{removed} is removed.\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the image called `name` unless there is one, with its progress on standard error.
///
/// # Errors
///
/// What a build ends with; another name.
pub(super) fn ensure_built(name: &str) -> anyhow::Result<()> {
    let cache = Cache::open(None)?;
    if !matches!(cache.image(name), Err(ImageError::NotBuilt(_))) {
        // What is there and of no use says so to whoever boots it.
        return Ok(());
    }
    eprintln!("ftvm: the image {name} is not there yet: building it, once");
    let name = name.to_owned();
    let build =
        move |cache: &Cache, job: &mut Job<'_>| cache.build(&name, &BuildOptions::default(), job);
    working(build, cache).map(|_| ())
}

/// Runs `work` with its progress on standard error; Ctrl-C ends it in order.
fn working<T: Send + 'static>(
    work: impl FnOnce(&Cache, &mut Job<'_>) -> Result<T, ImageError> + Send + 'static,
    cache: Cache,
) -> anyhow::Result<T> {
    super::block_on(async move {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        let mut work = tokio::task::spawn_blocking(move || {
            let mut job = Job {
                progress: &mut |line| eprintln!("ftvm: {line}"),
                interrupted: &flag,
            };
            work(&cache, &mut job)
        });
        let joined = tokio::select! {
            joined = &mut work => joined,
            signal = tokio::signal::ctrl_c() => {
                signal?;
                interrupted.store(true, Ordering::Relaxed);
                work.await
            }
        };
        Ok(joined.context("the builder's thread")??)
    })
}

fn about(name: &str) -> &'static str {
    guest_images::linux::by_name(name).map_or("", |recipe| recipe.about)
}

fn show_json(image: &Image) -> anyhow::Result<ExitCode> {
    json_line(&ImageReport {
        name: &image.manifest.name,
        about: about(&image.manifest.name),
        built: true,
        damage: None,
        image: Some(BuiltReport::of(image)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(cache: &Cache, json: bool) -> anyhow::Result<()> {
    let images = cache.list();
    if json {
        let reports: Vec<ImageReport<'_>> = images
            .iter()
            .map(|(recipe, image)| ImageReport {
                name: recipe.name,
                about: recipe.about,
                built: matches!(image, Some(Ok(_))),
                damage: match image {
                    Some(Err(error)) => Some(error.to_string()),
                    _ => None,
                },
                image: match image {
                    Some(Ok(image)) => Some(BuiltReport::of(image)),
                    _ => None,
                },
            })
            .collect();
        return json_line(&reports);
    }
    let mut table = Table::default();
    table.row(["image", "built", "what it is"].map(text));
    for (recipe, image) in &images {
        let built = match image {
            None => "no".to_owned(),
            Some(Ok(image)) => image.manifest.kernel_release.clone(),
            Some(Err(_)) => "damaged".to_owned(),
        };
        table.row([text(recipe.name), text(built), text(recipe.about)]);
    }
    print(&table)
}

fn show(image: &Image) -> anyhow::Result<()> {
    let manifest = &image.manifest;
    let mut table = Table::default();
    table.row([text("image"), text(&manifest.name)]);
    table.row([text("what it is"), text(about(&manifest.name))]);
    table.row([text("kernel"), text(&manifest.kernel_release)]);
    table.row([text("command line"), text(&manifest.command_line)]);
    table.row([text("memory"), text(format!("{} MiB", manifest.memory_mib))]);
    for file in files(image) {
        let path = image.dir.join(&file.file);
        table.row([text(&file.file), text(path.display().to_string())]);
        table.row([text(""), text(format!("{} bytes", file.bytes))]);
        table.row([text(""), text(format!("SHA-256 {}", file.sha256))]);
    }
    for (at, package) in manifest.packages.iter().enumerate() {
        let title = if at == 0 { "packages" } else { "" };
        let name = format!("{} {}", package.name, package.version);
        table.row([text(title), text(name)]);
    }
    print(&table)
}
