//! A swarm of one node through the API's router, with real containers, as root in namespaces of the test's own.

#[allow(dead_code)] // other tests use more of it
mod home;

use std::sync::Arc;
use std::time::Duration;

use agent::api::{App, AppState, router};
use agent::cluster::{Cluster, ClusterConfig};
use agent::engine::Engine;
use agent::host::HostFacts;
use agent::peer::{Peers, proxy, routes};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use home::{Home, at_home};
use http_body_util::BodyExt;
use proto::object::PEER_PORT;
use serde_json::{Value, json};
use tower::ServiceExt;

async fn open(home: &Home, engine: Arc<Engine>) -> App {
    let host = HostFacts::read();
    let (storage, netd) = (engine.config().storage.clone(), engine.config().netd.clone());
    let config = ClusterConfig {
        generic_resources: Vec::new(),
        state_dir: home.path("root/swarm"),
        host: host.clone(),
        engine: engine.clone(),
        netd: netd.clone(),
        peers: Peers::new(PEER_PORT),
    };
    let cluster = Cluster::open(config).await.unwrap();
    let (root, run_dir) = (home.path("root"), home.path("run"));
    Arc::new(AppState {
        root,
        run_dir,
        storage,
        netd,
        engine,
        cluster,
        host,
    })
}

async fn call(app: &App, method: Method, path: &str, body: Value) -> (StatusCode, Vec<u8>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json");
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let response = router(app.clone())
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    let status = response.status();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes().to_vec(),
    )
}

async fn get(app: &App, path: &str) -> Value {
    let (status, body) = call(app, Method::GET, path, Value::Null).await;
    assert_eq!(
        status,
        StatusCode::OK,
        "{path}: {}",
        String::from_utf8_lossy(&body)
    );
    serde_json::from_slice(&body).unwrap()
}

async fn post(app: &App, path: &str, body: Value) -> Value {
    let (status, answer) = call(app, Method::POST, path, body).await;
    assert!(
        status.is_success(),
        "{path}: {}",
        String::from_utf8_lossy(&answer)
    );
    serde_json::from_slice(&answer).unwrap_or_default()
}

fn service(script: &str, replicas: u64) -> Value {
    json!({
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "bb", "Args": ["sh", "-c", script], "StopGracePeriod": 1_000_000_000u64,
                "Hostname": "{{.Service.Name}}-{{.Task.Slot}}",
            },
            "RestartPolicy": { "Condition": "any", "Delay": 1 },
        },
        "Mode": { "Replicated": { "Replicas": replicas } },
    })
}

/// Tasks that run and are wanted running: identifier, container, process.
async fn running(app: &App) -> Vec<(String, String, i64)> {
    let filters = "%7B%22desired-state%22%3A%5B%22running%22%5D%7D";
    let tasks = get(app, &format!("/tasks?filters={filters}")).await;
    let mut running: Vec<_> = tasks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|task| {
            let container = &task["Status"]["ContainerStatus"];
            (task["Status"]["State"] == "running").then(|| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (
                    text(&task["ID"]),
                    text(&container["ContainerID"]),
                    container["PID"].as_i64().unwrap(),
                )
            })
        })
        .collect();
    running.sort();
    running
}

async fn until_running(app: &App, count: usize, unlike: &[String]) -> Vec<(String, String, i64)> {
    loop {
        let tasks = running(app).await;
        if tasks.len() == count && !tasks.iter().any(|(id, ..)| unlike.contains(id)) {
            return tasks;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_node_without_a_swarm_says_so() {
    at_home(|home| {
        home.agent(|engine| async {
            let app = open(home, engine).await;
            let (status, body) = call(&app, Method::GET, "/v1.44/services", Value::Null).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(String::from_utf8_lossy(&body).contains("This node is not a swarm manager"));
            let (status, _) = call(&app, Method::POST, "/swarm/leave", Value::Null).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(get(&app, "/info").await["Swarm"]["LocalNodeState"], "inactive");
        });
    });
}

#[test]
fn a_service_runs_is_replaced_outlives_the_agent_and_leaves_nothing() {
    at_home(|home| {
        let mut tasks = Vec::new();
        home.agent(|engine| async {
            let app = open(home, engine).await;
            post(
                &app,
                "/swarm/init",
                json!({ "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "127.0.0.1" }),
            )
            .await;
            let script = "echo I am $(cat /etc/hostname); trap 'exit 0' TERM; while true; do sleep 0.1; done";
            let created = post(&app, "/services/create", service(script, 2)).await;
            let first = until_running(&app, 2, &[]).await;
            let logs = format!("/services/{}/logs?stdout=1", created["ID"].as_str().unwrap());
            // A task runs before it has said anything.
            loop {
                let (_, said) = call(&app, Method::GET, &logs, Value::Null).await;
                let said = String::from_utf8_lossy(&said).into_owned();
                if said.contains("I am web-1") && said.contains("I am web-2") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }

            app.engine.kill(&first[0].1, "KILL").await.unwrap();
            tasks = until_running(&app, 2, &[first[0].0.clone()]).await;
            let failed = get(&app, &format!("/tasks/{}", first[0].0)).await;
            assert_eq!(failed["Status"]["Err"], "task: non-zero exit (137)");
        });
        home.agent(|engine| async {
            let app = open(home, engine).await;
            assert_eq!(
                until_running(&app, 2, &[]).await,
                tasks,
                "a restart of the agent replaces nothing"
            );
            let (status, body) = call(&app, Method::POST, "/swarm/leave", Value::Null).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(String::from_utf8_lossy(&body).contains("last manager"));
            assert_eq!(running(&app).await.len(), 2);
            post(&app, "/swarm/leave?force=1", Value::Null).await;
            assert_eq!(get(&app, "/containers/json?all=1").await, json!([]));
            assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
        });
    });
}

#[test]
fn a_task_without_its_image_is_rejected_with_its_name() {
    at_home(|home| {
        home.agent(|engine| async {
            let app = open(home, engine).await;
            post(
                &app,
                "/swarm/init",
                json!({ "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "127.0.0.1" }),
            )
            .await;
            let mut spec = service("true", 1);
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = json!("absent:1");
            spec["TaskTemplate"]["RestartPolicy"]["Condition"] = json!("none");
            post(&app, "/services/create", spec).await;
            let rejected = loop {
                let tasks = get(&app, "/tasks").await;
                match tasks
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|task| task["Status"]["State"] == "rejected")
                {
                    Some(task) => break task.clone(),
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            assert_eq!(rejected["Status"]["Err"], "No such image: absent:1");
            post(&app, "/swarm/leave?force=1", Value::Null).await;
        });
    });
}

/// Any request of the API, by way of the port between nodes of the same node.
async fn call_through_port(app: &App, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let client = app.cluster.peers().client().unwrap();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let answer = proxy::proxy(&client, &client.node(), request).await;
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn a_manager_answers_others_what_is_about_the_cluster() {
    at_home(|home| {
        home.agent(|engine| async {
            let app = open(home, engine).await;
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            assert!(up.unwrap().success());
            app.cluster.peers().serve(Some(routes::router(app.clone())));
            let init = json!({ "ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1" });
            post(&app, "/swarm/init", init).await;
            while !app.cluster.peers().members().are_known() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let ask = |method, path, body| call_through_port(&app, method, path, body);
            let (status, created) = ask(Method::POST, "/services/create", service("sleep 1000", 1)).await;
            assert_eq!(status, StatusCode::CREATED, "{created}");
            let path = format!("/services/{}", created["ID"].as_str().unwrap());
            let (status, service) = ask(Method::GET, &path, Value::Null).await;
            assert_eq!(
                (status, &service["Spec"]["Name"]),
                (StatusCode::OK, &json!("web"))
            );
            let overlay = json!({ "Name": "over", "Driver": "overlay" });
            let (status, _) = ask(Method::POST, "/networks/create", overlay).await;
            assert_eq!(status, StatusCode::CREATED);
            let (status, _) = ask(Method::DELETE, "/networks/over", Value::Null).await;
            assert_eq!(status, StatusCode::NO_CONTENT);

            let bridge = json!({ "Name": "own", "Driver": "bridge" });
            for (method, path, body) in [
                (Method::GET, "/containers/json", Value::Null),
                (Method::GET, "/v1.44/images/json", Value::Null),
                (Method::POST, "/networks/create", bridge),
                (Method::DELETE, "/networks/bridge", Value::Null),
                (Method::POST, "/swarm/leave?force=1", Value::Null),
            ] {
                let (status, said) = ask(method, path, body).await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {said}");
            }
            until_running(&app, 1, &[]).await;
            post(&app, "/swarm/leave?force=1", Value::Null).await;
        });
    });
}
