//! One list of cases for every language folder, over every carrier that the language has.

mod blobs;
mod cases;
mod endings;
mod subject;
mod values;

use std::{fs, time::Duration};

use cases::main_cases;
use endings::{killed, syntax_error, timeout};
use kernelbridge::discover::Environment;
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
    ($($language:ident),*) => {
        const LANGUAGES: &[&str] = &[$(stringify!($language)),*];
        $(mod $language {
            #[tokio::test]
            async fn pipe() {
                super::conforms(stringify!($language), "pipe").await;
            }

            #[tokio::test]
            async fn jupyter() {
                super::conforms(stringify!($language), "jupyter").await;
            }
        })*
    };
}

languages!(bash, javascript, lua, node, octave, prolog, python, r);

/// No kernel of theirs is in a registry; docs/languages.md says how they are tested.
const BY_HAND: &[&str] = &["julia", "ruby"];

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

async fn conforms(name: &str, carrier: &'static str) {
    let installed = Installed::look();
    if !installed.has(name) {
        return;
    }
    let language = &installed.languages.find(name).expect("a folder").language;
    let offered = if carrier == "pipe" { &language.turn.pipe } else { &language.turn.jupyter };
    if offered.is_none() {
        println!("{name} has no carrier `{carrier}`");
        return;
    }
    let _permit = KERNELS.acquire().await.expect("open");
    all_cases(Subject::new(name, language, carrier)).await;
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
    for carrier in ["pipe", "jupyter"] {
        let mut subject =
            Subject::new("python", &installed.languages.find("python").expect("a folder").language, carrier);
        let environment = Environment::capture().with_kernels_in(kernels.path());
        subject.kernel = Some(("ipykernel6".into(), environment));
        all_cases(subject).await;
    }
}

async fn all_cases(subject: Subject) {
    let (name, carrier) = (subject.name.clone(), subject.carrier);
    let mut report = Report { language: name.clone(), carrier, passed: 0, failed: Vec::new() };
    main_cases(&subject, &mut report).await;
    report.case("syntax error at load", syntax_error(&subject)).await;
    report.case("timeout interrupts a busy handler", timeout(&subject)).await;
    report.case("a killed kernel is gone", killed(&subject)).await;
    println!("{name}/{carrier}: {} cases passed", report.passed);
    assert!(report.failed.is_empty(), "{name}/{carrier}:\n{}", report.failed.join("\n"));
}
