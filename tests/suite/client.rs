//! `KernelClient` against real kernels, and against programs that are no kernels.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kernelbridge::{
    client::{ClientError, ExecutionEvent, KernelClient, LaunchOptions, Output},
    discover::Environment,
    host::runtime_for,
    language::Interrupt,
    plugin::launch_options,
    provision::LaunchSpec,
    wire::content::{ExecuteRequest, Status},
};
use serde_json::Value;

use crate::support::{Installed, processes_with};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a kernel gets to end by itself.
const GRACE: Duration = Duration::from_secs(3);

fn options(language: &str) -> Option<LaunchOptions> {
    let installed = Installed::look();
    if !installed.has(language) {
        return None;
    }
    let found = installed.languages.kernelspec_for(&installed.discovery, language).expect("found");
    Some(launch_options(&runtime_for(found, &installed.languages, &Environment::capture()), None))
}

fn program(argv: &[&str], startup: Duration) -> LaunchOptions {
    LaunchOptions {
        spec: LaunchSpec {
            kernel_name: "test".into(),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            ..LaunchSpec::default()
        },
        startup,
        interrupt: Interrupt::Signal,
        no_control: false,
        no_shutdown: false,
        unready_version: None,
    }
}

fn stdout(outputs: &[Output]) -> String {
    let texts = outputs.iter().filter_map(|output| match output {
        Output::Stream { name, text } if name == "stdout" => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[tokio::test]
async fn a_kernel_is_asked_and_answers() {
    let Some(options) = options("python") else { return };
    let client = KernelClient::launch(options).await.expect("a kernel");
    assert_eq!(client.info().implementation, "ipython");
    assert!(client.welcomed(), "ipykernel 7 sends iopub_welcome");

    let request = ExecuteRequest::new("print('one')\nprint('two')\n1 + 1");
    let executed = client.execute(&request).await.expect("sent").finish(DEADLINE).await.expect("executed");
    assert_eq!(executed.reply.status, Status::Ok);
    assert!(executed.complete);
    assert_eq!(stdout(&executed.outputs), "one\ntwo\n");
    assert!(
        executed
            .outputs
            .iter()
            .any(|output| matches!(output, Output::Display { data, .. } if data["text/plain"] == "2"))
    );

    let request = ExecuteRequest::new("1 / 0");
    let executed = client.execute(&request).await.expect("sent").finish(DEADLINE).await.expect("executed");
    assert_eq!((executed.reply.status, executed.reply.ename.as_str()), (Status::Error, "ZeroDivisionError"));

    let completed = client.complete("import jso", 10, DEADLINE).await.expect("completions");
    assert!(completed.get().contains("\"json\""), "{completed}");
    let inspected = client.inspect("len", 3, 0, DEADLINE).await.expect("documentation");
    assert!(inspected.get().contains("number of items"), "{inspected}");
    let complete: Value =
        serde_json::from_str(client.is_complete("for x in y:", DEADLINE).await.expect("an answer").get())
            .expect("JSON");
    assert_eq!(complete["status"], "incomplete");
    client.kernel_info_on_control(DEADLINE).await.expect("an answer on control");
    client.comm_info(DEADLINE).await.expect("an answer");
    assert_eq!(client.counters().odd_messages(), 0);
    client.shutdown(GRACE).await;
}

#[tokio::test]
async fn input_is_asked_and_answered() {
    let Some(options) = options("python") else { return };
    let client = KernelClient::launch(options).await.expect("a kernel");
    let request = ExecuteRequest { allow_stdin: true, ..ExecuteRequest::new("print(input('name? ')[::-1])") };
    let mut execution = client.execute(&request).await.expect("sent");
    let mut printed = String::new();
    let events = async {
        loop {
            match execution.next().await {
                ExecutionEvent::Input(input) => {
                    assert_eq!((input.prompt.as_str(), input.password), ("name? ", false));
                    execution.reply_input(&input, "Ada").await.expect("answered");
                }
                ExecutionEvent::Output(Output::Stream { text, .. }) => printed += &text,
                ExecutionEvent::Idle => return,
                ExecutionEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, events).await.expect("it ends");
    assert_eq!(printed, "adA\n");
    client.shutdown(GRACE).await;
}

#[tokio::test]
async fn a_flood_of_outputs_arrives_complete() {
    let Some(options) = options("python") else { return };
    let client = KernelClient::launch(options).await.expect("a kernel");
    let code = "from IPython.display import display\nfor n in range(20_000): display({'text/plain': str(n)}, raw=True)";
    let executed =
        client.execute(&ExecuteRequest::new(code)).await.expect("sent").finish(DEADLINE * 2).await.expect("executed");
    let shown: Vec<_> = executed.outputs.iter().filter(|output| matches!(output, Output::Display { .. })).collect();
    assert_eq!(shown.len(), 20_000);
    assert!(executed.complete, "`idle` was lost");
    assert_eq!(client.counters().dropped_outputs(), 0);
    client.shutdown(GRACE).await;
}

#[tokio::test]
async fn running_code_is_interrupted_and_the_kernel_restarted() {
    for (language, code) in [("python", "while True: pass"), ("r", "repeat {}"), ("javascript", "while (true) {}")] {
        let Some(options) = options(language) else { continue };
        let client = KernelClient::launch(options).await.expect("a kernel");
        let execution = client.execute(&ExecuteRequest::new(code)).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.interrupt().await.expect("interrupted");
        let executed = execution.finish(DEADLINE).await.expect("it ends");
        assert_ne!(executed.reply.status, Status::Ok, "{language}");
        let before = client.process().id();
        let client = client.restart(GRACE).await.expect("restarted");
        assert_ne!(client.process().id(), before);
        client.kernel_info(DEADLINE).await.expect("it answers");
        client.shutdown(GRACE).await;
    }
}

#[tokio::test]
async fn every_wait_ends_when_the_process_does() {
    let Some(options) = options("python") else { return };
    let client = KernelClient::launch(options).await.expect("a kernel");
    let folder = client.folder().to_owned();
    let began = Instant::now();
    let request = ExecuteRequest::new("import os; os.kill(os.getpid(), 9)");
    let error = client.execute(&request).await.expect("sent").finish(DEADLINE).await.expect_err("it died");
    assert!(matches!(&error, ClientError::Gone { exit, .. } if exit.to_string() == "signal SIGKILL"), "{error}");
    let error = client.kernel_info(DEADLINE).await.expect_err("it is dead");
    assert!(matches!(error, ClientError::Gone { .. }), "{error}");
    assert!(began.elapsed() < DEADLINE / 2);
    client.shutdown(GRACE).await;
    assert!(!folder.exists());
    assert_eq!(processes_with(&format!("KERNELBRIDGE_DIR={}", folder.display())), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_kernel_leaves_no_temporary_files() {
    for (language, code) in [("r", "cat(tempdir())"), ("bash", "mktemp -d")] {
        let Some(options) = options(language) else { continue };
        let client = KernelClient::launch(options).await.expect("a kernel");
        let executed = client.execute(&ExecuteRequest::new(code)).await.expect("sent").finish(DEADLINE).await;
        let folder = PathBuf::from(stdout(&executed.expect("executed").outputs).trim());
        assert!(folder.is_dir() && folder.parent() != Some(&std::env::temp_dir()), "{}", folder.display());
        client.process().kill_tree().await;
        client.shutdown(GRACE).await;
        assert!(!folder.exists(), "{language} left {}", folder.display());
    }
}

#[tokio::test]
async fn a_kernelspec_may_say_where_temporary_files_are() {
    let Some(mut options) = options("python") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    options.spec.env.insert("TMPDIR".into(), dir.path().display().to_string());
    let client = KernelClient::launch(options).await.expect("a kernel");
    let request = ExecuteRequest::new("import tempfile; print(tempfile.gettempdir())");
    let executed = client.execute(&request).await.expect("sent").finish(DEADLINE).await.expect("executed");
    assert_eq!(PathBuf::from(stdout(&executed.outputs).trim()), dir.path());
    client.shutdown(GRACE).await;
    assert!(dir.path().exists());
}

#[tokio::test]
async fn dropping_a_client_leaves_nothing() {
    let Some(options) = options("python") else { return };
    let client = KernelClient::launch(options).await.expect("a kernel");
    // A child in a session of its own, as shells and pseudo-terminals make them.
    let code = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)";
    client.execute(&ExecuteRequest::new(code)).await.expect("sent").finish(DEADLINE).await.expect("executed");
    let folder = client.folder().to_owned();
    let mark = format!("KERNELBRIDGE_DIR={}", folder.display());
    assert!(processes_with(&mark).len() >= 2);
    drop(client);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_program_that_ends_is_reported_at_once_with_its_last_words() {
    let began = Instant::now();
    let dying = program(&["sh", "-c", "echo 'no module named kernel' >&2; exit 3"], DEADLINE);
    let error = KernelClient::launch(dying).await.expect_err("no kernel").to_string();
    assert_eq!(
        error,
        "kernel `test` ended with exit code 3 before it was ready; its last output:\nno module named kernel"
    );
    assert!(began.elapsed() < DEADLINE / 2);
}

#[tokio::test]
async fn a_deaf_program_is_killed_at_its_deadline() {
    let deaf = program(&["sh", "-c", "echo still here; sleep 600"], Duration::from_secs(1));
    let error = KernelClient::launch(deaf).await.expect_err("no kernel").to_string();
    let expected =
        "kernel `test` was not ready within 1s (it does not listen on its ports); its last output:\nstill here";
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let missing = program(&["no-such-kernel", "-f", "{connection_file}"], DEADLINE);
    let error = KernelClient::launch(missing).await.expect_err("no kernel").to_string();
    assert!(
        error.starts_with("cannot run `no-such-kernel`, the program of kernelspec `test`: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stolen_port_is_replaced() {
    let Some(mut options) = options("python") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let marker: PathBuf = dir.path().join("stolen");
    // The first launch fails in the way a kernel does whose port somebody else took; the second is real.
    let script = format!(
        "if [ ! -e '{0}' ]; then touch '{0}'; echo 'zmq.error.ZMQError: Address already in use' >&2; exit 1; fi; exec \"$@\"",
        marker.display()
    );
    let mut argv = vec!["sh".to_owned(), "-c".into(), script, "sh".into()];
    argv.append(&mut options.spec.argv);
    options.spec.argv = argv;
    let client = KernelClient::launch(options).await.expect("a kernel at the second try");
    assert!(marker.exists());
    client.shutdown(GRACE).await;
}

/// R says that it could not bind its port, and lives on.
#[tokio::test]
async fn a_kernel_that_lives_without_its_port_is_started_again() {
    let Some(mut options) = options("r") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let marker: PathBuf = dir.path().join("taken");
    // Takes the control port before it becomes R.
    let script = format!(
        r#"
import json, os, socket, sys
if not os.path.exists({marker:?}):
    open({marker:?}, "w").close()
    taken = socket.create_server(("127.0.0.1", json.load(open(sys.argv[1]))["control_port"]))
    os.set_inheritable(taken.fileno(), True)
os.execvp(sys.argv[2], sys.argv[2:])
"#
    );
    let mut argv = vec!["python3".to_owned(), "-c".into(), script, "{connection_file}".into()];
    argv.append(&mut options.spec.argv);
    options.spec.argv = argv;
    let client = KernelClient::launch(options).await.expect("a kernel at the second try");
    assert!(marker.exists());
    client.shutdown(GRACE).await;
}

#[tokio::test]
async fn unix_sockets_work_where_they_are_known_to() {
    for language in ["python", "r"] {
        let Some(mut options) = options(language) else { continue };
        options.spec.ipc = true;
        let client = KernelClient::launch(options).await.expect("a kernel");
        client.kernel_info(DEADLINE).await.expect("it answers");
        client.shutdown(GRACE).await;
    }
}

/// `KERNELBRIDGE_TEST_KERNELS=50` takes a minute on two cores.
#[tokio::test]
async fn many_kernels_start_at_the_same_time() {
    let Some(options) = options("python") else { return };
    let options = LaunchOptions { startup: DEADLINE * 3, ..options };
    let count = std::env::var("KERNELBRIDGE_TEST_KERNELS").map_or(10, |count| count.parse().expect("a number"));
    let launches = (0..count).map(|_| KernelClient::launch(options.clone()));
    for client in futures_util::future::join_all(launches).await {
        client.expect("a kernel").shutdown(GRACE).await;
    }
}
