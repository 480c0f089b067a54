//! The admin API: HTTP/JSON on the site's socket and, if the operator says so, on a TCP address with a token.
//!
//! Every handler calls one method of [`Site`]; whoever changes something is written to the audit log.

mod extract;
mod openapi;
mod server;

pub(crate) use server::bind;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use backstay_engine::handover::Target;
use backstay_types::{PlanName, RestorePointId, Span, Time};
use serde::Deserialize;

use crate::api_types::{
    AcceptRequest, Accepted, Applied, ApplyRequest, Changed, DiffList, DrillReport, DrillRequest, ErrorBody,
    ErrorInfo, FieldChange, GcOutcome, GcRequest, JoinRequest, List, Pair, PairKey, PairKeyRequest,
    PairReplaceRequest, PairSetRequest, PlanDetail, PlanStatus, PlanSummary, PromoteRequest, PromotionReport,
    Replaced, RestoreOutcome, RestorePointInfo, RestoreRequest, SiteInfo, SyncOutcome, SyncRequest, Unpaired,
    VerifyOutcome, VerifyRequest,
};
use crate::audit::{Actor, AuditPage};
use crate::site::Site;
use crate::{DaemonError, clock};
use extract::{Asked, Body, no_method, no_route};

/// A pair key can be used this long unless the operator says otherwise.
const KEY_TTL: Span = Span(15 * 60 * 1000);
/// The longest: a key is for two people who pair now, not for a drawer.
const KEY_TTL_MAX: Span = Span(7 * 24 * 3_600_000);

/// What a handler needs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) site: Arc<Site>,
    pub(crate) started: Time,
}

/// An error on its way out.
struct Failed(DaemonError);

impl<E: Into<DaemonError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let error = ErrorInfo::new(&self.0);
        let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failed>;

/// Every route.
pub(crate) fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/site", get(site_info))
        .route("/openapi.json", get(openapi::document))
        .route("/pairs", get(pairs))
        .route("/pairs/key", post(pair_key))
        .route("/pairs/join", post(pair_join))
        .route("/pairs/{peer}", delete(pair_remove))
        .route("/pairs/{peer}/set", post(pair_set))
        .route("/pairs/{peer}/replace", post(pair_replace))
        .route("/pairs/{peer}/rotate", post(pair_rotate))
        .route("/plans", get(plans).post(plans_apply))
        .route("/plans/{name}", get(plan).delete(plan_delete))
        .route("/plans/{name}/proposed", get(plan_proposed))
        .route("/plans/{name}/accept", post(plan_accept))
        .route("/plans/{name}/suspend", post(plan_suspend))
        .route("/plans/{name}/resume", post(plan_resume))
        .route("/plans/{name}/sync", post(sync))
        .route("/plans/{name}/status", get(plan_status))
        .route("/plans/{name}/restore-points", get(restore_points))
        .route("/plans/{name}/diff", get(diff))
        .route("/plans/{name}/restore", post(restore))
        .route("/plans/{name}/promote", post(promote))
        .route("/plans/{name}/switchover", post(switchover))
        .route("/plans/{name}/failback", post(failback))
        .route("/plans/{name}/drill", post(drill).delete(drill_clean))
        .route("/plans/{name}/drills", get(drills))
        .route("/promote-all", post(promote_all))
        .route("/status", get(status))
        .route("/verify", post(verify))
        .route("/gc", post(gc))
        .route("/audit", get(audit))
        .method_not_allowed_fallback(no_method);
    Router::new()
        .nest(crate::api_types::API_PREFIX, v1)
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(api)
}

fn plan_name(text: &str) -> Result<PlanName, Failed> {
    Ok(text.parse::<PlanName>()?)
}

impl Api {
    /// Writes what was asked and how it ended to the audit log, then passes the outcome on.
    fn audited<T>(
        &self,
        actor: &Actor,
        action: &'static str,
        plan: Option<&PlanName>,
        detail: String,
        outcome: Result<T, DaemonError>,
    ) -> Result<T, Failed> {
        self.site.record(actor, action, plan, detail, outcome.as_ref().err());
        Ok(outcome?)
    }

    async fn handed_over(&self, actor: &Actor, name: &str, target: Target) -> Answer<PromotionReport> {
        let name = plan_name(name)?;
        let outcome = self.site.hand_over(&name, target).await;
        Ok(Json(self.audited(actor, target.command(), Some(&name), String::new(), outcome)?))
    }
}

async fn site_info(State(api): State<Api>) -> Json<SiteInfo> {
    Json(api.site.site_info(api.started))
}

async fn pairs(State(api): State<Api>) -> Json<List<Pair>> {
    Json(api.site.pairs().into())
}

async fn pair_key(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<PairKeyRequest>,
) -> Answer<PairKey> {
    let ttl = request.ttl_seconds.map_or(KEY_TTL, Span::from_secs);
    if ttl == Span(0) || ttl > KEY_TTL_MAX {
        let message = format!("lifetime of a pair key: expected 1s to {KEY_TTL_MAX}, found {ttl}");
        return Err(Failed(DaemonError::Request { message }));
    }
    let endpoints = if request.endpoints.is_empty() {
        api.site.config.load().advertise.clone()
    } else {
        request.endpoints
    };
    let endpoints = if endpoints.is_empty() { api.site.net.own_endpoints() } else { endpoints };
    let replaces = request.replaces.as_ref().map(|name| format!(", in the place of {name}"));
    let detail = format!("endpoints {}{}", endpoints.join(" "), replaces.unwrap_or_default());
    let key = api.site.net.pair_key(endpoints.clone(), ttl, request.replaces).map_err(DaemonError::from);
    Ok(Json(PairKey { key: api.audited(&actor, "pairKey", None, detail, key)?, endpoints }))
}

async fn pair_join(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<JoinRequest>,
) -> Answer<Pair> {
    let outcome = api.site.join(&request.key, request.replaces.as_deref()).await;
    let replaces = request.replaces.map(|name| format!(", in the place of {name}")).unwrap_or_default();
    let detail = outcome.as_ref().map_or_else(
        |_| replaces.clone(),
        |pair| {
            let fingerprint = pair.fingerprint.as_deref().unwrap_or("none");
            format!("peer {}, site {}, authority {fingerprint}{replaces}", pair.name, pair.site_id)
        },
    );
    Ok(Json(api.audited(&actor, "pairJoin", None, detail, outcome)?))
}

async fn pair_set(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(peer): Path<String>,
    Body(request): Body<PairSetRequest>,
) -> Answer<Pair> {
    let detail = format!("peer {peer}, endpoints {}", request.endpoints.join(" "));
    let outcome = api.site.set_endpoints(&peer, request.endpoints).await;
    Ok(Json(api.audited(&actor, "pairSet", None, detail, outcome)?))
}

async fn pair_replace(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(peer): Path<String>,
    Body(request): Body<PairReplaceRequest>,
) -> Answer<Replaced> {
    let detail = format!("peer {peer}, by {}", request.by);
    let outcome = api.site.replace_peer(&peer, &request.by).await;
    Ok(Json(api.audited(&actor, "pairReplace", None, detail, outcome)?))
}

async fn pair_rotate(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(peer): Path<String>,
) -> Answer<Changed> {
    let outcome = api.site.rotate(&peer).await;
    Ok(Json(api.audited(&actor, "pairRotate", None, format!("peer {peer}"), outcome)?))
}

async fn pair_remove(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(peer): Path<String>,
) -> Answer<Unpaired> {
    let outcome = api.site.unpair(&peer).await;
    Ok(Json(api.audited(&actor, "pairRemove", None, format!("peer {peer}"), outcome)?))
}

async fn plans(State(api): State<Api>) -> Json<List<PlanSummary>> {
    Json(api.site.plan_summaries().into())
}

async fn plans_apply(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<ApplyRequest>,
) -> Answer<List<Applied>> {
    let outcome = api.site.apply_documents(&request.documents).await;
    let names = |applied: &Vec<Applied>| {
        applied.iter().map(|one| format!("{} {}", one.kind, one.name)).collect::<Vec<_>>().join(", ")
    };
    let detail = outcome.as_ref().map(names).unwrap_or_default();
    Ok(Json(api.audited(&actor, "planApply", None, detail, outcome)?.into()))
}

async fn plan(State(api): State<Api>, Path(name): Path<String>) -> Answer<PlanDetail> {
    Ok(Json(api.site.plan_detail(&plan_name(&name)?)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteQuery {
    #[serde(default)]
    purge: bool,
}

async fn plan_delete(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Asked(query): Asked<DeleteQuery>,
) -> Answer<Changed> {
    let name = plan_name(&name)?;
    let detail = if query.purge { "with its restore points".to_owned() } else { String::new() };
    let outcome = match api.site.keepers.check(&name) {
        Ok(()) => api.site.delete_plan(&name, query.purge).await,
        Err(error) => Err(error),
    };
    Ok(Json(Changed { changed: api.audited(&actor, "planDelete", Some(&name), detail, outcome)? }))
}

async fn plan_proposed(State(api): State<Api>, Path(name): Path<String>) -> Answer<List<FieldChange>> {
    Ok(Json(api.site.proposed_changes(&plan_name(&name)?)?.into()))
}

async fn plan_accept(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Body(request): Body<AcceptRequest>,
) -> Answer<Accepted> {
    let name = plan_name(&name)?;
    let outcome = api.site.accept_plan(&name, &request);
    let fields = |done: &Accepted| {
        done.accepted.iter().map(|change| change.field.clone()).collect::<Vec<_>>().join(", ")
    };
    let detail = outcome.as_ref().map(fields).unwrap_or_default();
    Ok(Json(api.audited(&actor, "planAccept", Some(&name), detail, outcome)?))
}

async fn plan_suspend(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Answer<Changed> {
    let name = plan_name(&name)?;
    let outcome = api.site.suspend_plan(&name, true);
    Ok(Json(Changed { changed: api.audited(&actor, "planSuspend", Some(&name), String::new(), outcome)? }))
}

async fn plan_resume(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Answer<Changed> {
    let name = plan_name(&name)?;
    let outcome = api.site.suspend_plan(&name, false);
    Ok(Json(Changed { changed: api.audited(&actor, "planResume", Some(&name), String::new(), outcome)? }))
}

async fn sync(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Body(request): Body<SyncRequest>,
) -> Answer<SyncOutcome> {
    let name = plan_name(&name)?;
    api.site.may_sync(&name)?;
    if !request.wait && api.site.runtimes.of(&name).is_cycle_queued() {
        api.site.record(&actor, "sync", Some(&name), "one waits already".into(), None);
        return Ok(Json(SyncOutcome::Started { started: true }));
    }
    // The cycle is a task of the daemon: it goes on when the caller hangs up.
    let task = api.site.tasks.spawn({
        let (site, name) = (api.site.clone(), name.clone());
        async move {
            site.note_start(&name, clock::now());
            site.sync(&name).await
        }
    });
    if !request.wait {
        api.site.record(&actor, "sync", Some(&name), "started".into(), None);
        return Ok(Json(SyncOutcome::Started { started: true }));
    }
    let outcome = task.await.map_err(|_| DaemonError::Worker { what: "the cycle" })?;
    let point = api.audited(&actor, "sync", Some(&name), String::new(), outcome)?;
    Ok(Json(SyncOutcome::Done(Box::new(RestorePointInfo::new(&point, vec!["last".into()], false)))))
}

async fn status(State(api): State<Api>) -> Answer<List<PlanStatus>> {
    let plans = api.site.plans.list();
    let items = plans.iter().map(|plan| api.site.plan_status(&plan.name)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(items.into()))
}

async fn plan_status(State(api): State<Api>, Path(name): Path<String>) -> Answer<PlanStatus> {
    Ok(Json(api.site.plan_status(&plan_name(&name)?)?))
}

async fn restore_points(State(api): State<Api>, Path(name): Path<String>) -> Answer<List<RestorePointInfo>> {
    Ok(Json(api.site.restore_points(&plan_name(&name)?).await?.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    a: Option<RestorePointId>,
    b: Option<RestorePointId>,
}

async fn diff(
    State(api): State<Api>,
    Path(name): Path<String>,
    Asked(query): Asked<DiffQuery>,
) -> Answer<DiffList> {
    Ok(Json(api.site.diff(plan_name(&name)?, query.a, query.b).await?))
}

async fn restore(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Body(request): Body<RestoreRequest>,
) -> Answer<RestoreOutcome> {
    let name = plan_name(&name)?;
    let detail = format!("to {}", request.to.display());
    let outcome = api.site.restore(name.clone(), request).await;
    Ok(Json(api.audited(&actor, "restore", Some(&name), detail, outcome)?))
}

async fn promote(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Body(request): Body<PromoteRequest>,
) -> Answer<PromotionReport> {
    let name = plan_name(&name)?;
    let outcome = api.site.promote(&name, request).await;
    Ok(Json(api.audited(&actor, "promote", Some(&name), asked(&request), outcome)?))
}

/// What a promotion was asked with, for the audit log.
pub(crate) fn asked(request: &PromoteRequest) -> String {
    let point = request.restore_point.map(|point| format!("to {point}"));
    let flags =
        [(request.dry_run, "dry run"), (request.force, "force"), (request.accept_partial, "accept partial")];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    point.into_iter().chain(flags).collect::<Vec<_>>().join(", ")
}

async fn switchover(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Answer<PromotionReport> {
    api.handed_over(&actor, &name, Target::Away).await
}

async fn failback(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Answer<PromotionReport> {
    api.handed_over(&actor, &name, Target::Home).await
}

async fn drill(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Body(request): Body<DrillRequest>,
) -> Answer<DrillReport> {
    let name = plan_name(&name)?;
    let outcome = api.site.drill(&name, request).await;
    let detail = outcome.as_ref().map(crate::drill::told).unwrap_or_default();
    Ok(Json(api.audited(&actor, "drill", Some(&name), detail, outcome)?))
}

async fn drill_clean(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Answer<Changed> {
    let name = plan_name(&name)?;
    let outcome = api.site.clean_drills(&name).await;
    Ok(Json(Changed { changed: api.audited(&actor, "drillClean", Some(&name), String::new(), outcome)? }))
}

async fn drills(State(api): State<Api>, Path(name): Path<String>) -> Answer<List<DrillReport>> {
    let name = plan_name(&name)?;
    api.site.plans.get(&name)?;
    Ok(Json(api.site.drills_of(&name)?.into()))
}

async fn promote_all(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<PromoteRequest>,
) -> Answer<List<PromotionReport>> {
    let outcome = api.site.promote_all(request).await;
    Ok(Json(api.audited(&actor, "promoteAll", None, asked(&request), outcome)?.into()))
}

async fn verify(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<VerifyRequest>,
) -> Answer<VerifyOutcome> {
    let detail = if request.repair { "with repair".to_owned() } else { String::new() };
    let outcome = api.site.verify(request.plan.clone(), request.repair).await;
    Ok(Json(api.audited(&actor, "verify", request.plan.as_ref(), detail, outcome)?))
}

async fn gc(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<GcRequest>,
) -> Answer<GcOutcome> {
    let outcome = api.site.collect(request.dry_run).await;
    Ok(Json(api.audited(
        &actor,
        "gc",
        None,
        if request.dry_run { "dry run".into() } else { String::new() },
        outcome,
    )?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    since: Option<Time>,
    after: Option<u64>,
}

async fn audit(State(api): State<Api>, Asked(query): Asked<AuditQuery>) -> Answer<AuditPage> {
    Ok(Json(api.site.audit.read(query.since, query.after)?))
}

async fn metrics(State(api): State<Api>) -> Result<Response, Failed> {
    let text = api.site.metrics_text()?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response())
}

/// Ready: the store answers and the endpoint listens. A peer that is away does not make a site unready.
async fn readyz(State(api): State<Api>) -> Result<&'static str, Failed> {
    api.site.store.state_get("readyz")?;
    Ok("ok\n")
}
