//! One list of cases for every language folder, over every carrier that the language has.

mod blobs;
mod cases;
mod endings;
mod subject;
mod values;

use std::{fs, time::Duration};

use cases::main_cases;
use endings::{killed, syntax_error, timeout};
use kernelbridge::{discover::Environment, language::Activation};
use serde_json::json;
use subject::{Report, Subject};
use tokio::sync::Semaphore;

use crate::support::{Installed, root};

/// Two cores: more kernels at once only wait for each other.
static KERNELS: Semaphore = Semaphore::const_new(2);

/// How long anything may take that should not take long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Largest string over the `jupyter` and `pipe` carriers, unless language.toml says less.
const LARGE: usize = 10_000_000;

macro_rules! languages {
    ($($language:ident),*; by hand: $($by_hand:ident),*) => {
        const LANGUAGES: &[&str] = &[$(stringify!($language)),*];
        /// No kernel of theirs is in a registry; docs/languages.md says how they are tested.
        const BY_HAND: &[&str] = &[$(stringify!($by_hand)),*];
        languages!($($language)* $($by_hand)*);
    };
    ($($language:ident)*) => {
        $(mod $language {
            use kernelbridge::language::Activation::{Comm, Execute, Loop, Thread};

            #[tokio::test]
            async fn pipe() {
                super::conforms(stringify!($language), "pipe", Execute).await;
            }

            #[tokio::test]
            async fn jupyter() {
                super::conforms(stringify!($language), "jupyter", Execute).await;
            }

            #[tokio::test]
            async fn comm() {
                super::conforms(stringify!($language), "pipe", Comm).await;
            }

            #[tokio::test]
            async fn standing() {
                super::conforms(stringify!($language), "pipe", Loop).await;
            }

            #[tokio::test]
            async fn shared() {
                super::conforms_shared(stringify!($language)).await;
            }

            #[tokio::test]
            async fn thread() {
                super::conforms(stringify!($language), "pipe", Thread).await;
            }
        })*
    };
}

languages!(bash, javascript, lua, node, octave, prolog, python, r; by hand: julia, ruby);

/// Is there a kernel to be tested? Those of languages by hand are when `KERNELBRIDGE_TEST_BY_HAND` names them, and then
/// have to be there.
fn is_tested(installed: &Installed, name: &str) -> bool {
    if !BY_HAND.contains(&name) {
        return installed.has(name);
    }
    let named = std::env::var("KERNELBRIDGE_TEST_BY_HAND").unwrap_or_default();
    if !named.split(',').any(|word| word.trim() == name) {
        println!("{name} is tested by hand: bring a kernel and name it in KERNELBRIDGE_TEST_BY_HAND");
        return false;
    }
    if let Err(error) = installed.languages.kernelspec_for(&installed.discovery, name) {
        panic!("`{name}` is to be tested, but {error}");
    }
    true
}

#[test]
fn every_language_folder_with_a_shim_is_tested() {
    let mut folders: Vec<String> = fs::read_dir(root().join("kernelspecs"))
        .expect("kernelspecs")
        .flatten()
        .filter(|folder| folder.path().join("conformance").is_dir())
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut tested: Vec<&str> = LANGUAGES.iter().chain(BY_HAND).copied().collect();
    tested.sort_unstable();
    assert_eq!(folders, tested);
}

async fn conforms(name: &str, carrier: &'static str, activation: Activation) {
    let installed = Installed::look();
    if !is_tested(&installed, name) {
        return;
    }
    let language = &installed.languages.find(name).expect("a folder").language;
    let offered = match activation {
        Activation::Comm => &language.turn.comm,
        Activation::Loop => &language.turn.standing,
        Activation::Thread => &language.turn.thread,
        Activation::Execute if carrier == "pipe" => &language.turn.pipe,
        Activation::Execute => &language.turn.jupyter,
    };
    if offered.is_none() {
        println!("{name} has no activation `{activation}` over carrier `{carrier}`");
        return;
    }
    let _permit = KERNELS.acquire().await.expect("open");
    all_cases(Subject::new(name, language, carrier, activation)).await;
}

/// The same in a kernel that several plugins may share, served as the language is served best.
async fn conforms_shared(name: &str) {
    let installed = Installed::look();
    if !is_tested(&installed, name) {
        return;
    }
    let language = &installed.languages.find(name).expect("a folder").language;
    if !language.shim.as_ref().is_some_and(|shim| shim.shared) {
        println!("plugins in {name} cannot share a kernel");
        return;
    }
    let carrier = if language.turn.pipe.is_some() { "pipe" } else { "jupyter" };
    let activation = Activation::choose(&language.turn, None, carrier == "pipe").expect("there is one");
    let _permit = KERNELS.acquire().await.expect("open");
    let mut subject = Subject::new(name, language, carrier, activation);
    subject.shared = true;
    all_cases(subject).await;
}

/// The older ipykernel, which has another event loop; `KERNELBRIDGE_TEST_IPYKERNEL6` names a Python that has it.
#[tokio::test]
async fn ipykernel_6_conforms_too() {
    let Some(python) = std::env::var_os("KERNELBRIDGE_TEST_IPYKERNEL6") else {
        assert!(std::env::var_os("KERNELBRIDGE_REQUIRE").is_none(), "KERNELBRIDGE_TEST_IPYKERNEL6 is required");
        println!("skipped: KERNELBRIDGE_TEST_IPYKERNEL6 is not set");
        return;
    };
    let installed = Installed::look();
    if !installed.has("python") {
        return;
    }
    let _permit = KERNELS.acquire().await.expect("open");
    let kernels = tempfile::tempdir().expect("a folder");
    let folder = kernels.path().join("ipykernel6");
    fs::create_dir_all(&folder).expect("a folder");
    let argv = json!([python.to_string_lossy(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]);
    let kernelspec = json!({ "argv": argv, "display_name": "ipykernel 6", "language": "python" });
    fs::write(folder.join("kernel.json"), kernelspec.to_string()).expect("written");
    let ways = [
        ("pipe", Activation::Execute),
        ("jupyter", Activation::Execute),
        ("pipe", Activation::Comm),
        ("pipe", Activation::Loop),
    ];
    for (carrier, activation) in ways {
        let language = &installed.languages.find("python").expect("a folder").language;
        let mut subject = Subject::new("python", language, carrier, activation);
        let environment = Environment::capture().with_kernels_in(kernels.path());
        subject.kernel = Some(("ipykernel6".into(), environment));
        all_cases(subject).await;
    }
}

async fn all_cases(subject: Subject) {
    let shared = if subject.shared { "/shared" } else { "" };
    let name = format!("{}/{}/{}{shared}", subject.name, subject.carrier, subject.activation);
    let mut report = Report { subject: name.clone(), passed: 0, failed: Vec::new() };
    main_cases(&subject, &mut report).await;
    report.case("syntax error at load", syntax_error(&subject)).await;
    report.case("timeout interrupts a busy handler", timeout(&subject)).await;
    report.case("a killed kernel is gone", killed(&subject)).await;
    println!("{name}: {} cases passed", report.passed);
    assert!(report.failed.is_empty(), "{name}:\n{}", report.failed.join("\n"));
}
