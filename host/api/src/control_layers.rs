//! The two layers of a control: the operator's, and the tenant's own. The stricter one holds, field by field, so that a
//! tenant cannot lift what an operator set.
//!
//! The broker knows one control for each scope, the one that holds. Both layers are kept in a document of the tenant, as soon
//! as an operator sets one; without it the control is the tenant's own.
//!
//! Invariant: after a change has been answered, the control that holds is that of both layers as they were last written.
//! Whoever writes a layer writes the control that follows, and repeats that until nobody wrote a layer meanwhile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use umbel_broker::{Control, ControlPatch, ControlSet, DocumentKind, DocumentPut, Expect, PutDocument, Scope};
use umbel_model::TenantId;

use crate::{
    problem::{Problem, Result},
    records,
    state::Api,
};

const NAME: &str = "layers";
/// Scopes of one tenant with an operator's control.
const MAX_SCOPES: usize = 256;
/// Attempts of a write that others keep changing.
const ATTEMPTS: usize = 20;

/// Whose control it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Tenant,
    Operator,
}

/// Both layers of one scope.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Layers {
    pub(crate) operator: Control,
    pub(crate) tenant: Control,
}

impl Layers {
    pub(crate) fn of(&self, layer: Layer) -> &Control {
        match layer {
            Layer::Tenant => &self.tenant,
            Layer::Operator => &self.operator,
        }
    }

    fn change(&mut self, layer: Layer, patch: &ControlPatch) {
        let control = match layer {
            Layer::Tenant => &mut self.tenant,
            Layer::Operator => &mut self.operator,
        };
        *control = control.patched(patch);
    }

    /// The control that holds.
    pub(crate) fn holding(&self) -> Control {
        self.tenant.with_stricter(&self.operator)
    }
}

/// The layers of a tenant's scopes, by their names.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    scopes: BTreeMap<String, Layers>,
}

fn name_of(scope: &Scope) -> String {
    match scope {
        Scope::Tenant => "tenant".into(),
        Scope::Queue(name) => format!("queue:{name}"),
        Scope::Task(name) => format!("task:{name}"),
    }
}

/// The stored layers and their version; version 0 when there are none.
async fn read(api: &Api, tenant: &TenantId) -> Result<(Stored, u64)> {
    let Some(document) = api.broker.document(tenant, DocumentKind::ControlLayers, NAME).await? else {
        return Ok((Stored::default(), 0));
    };
    let stored = serde_json::from_str(&document.body);
    Ok((stored.map_err(|e| Problem::record_unreadable(e.to_string()))?, document.version))
}

/// The control of a scope that holds now.
pub(crate) async fn control_of(api: &Api, tenant: &TenantId, scope: &Scope) -> Result<Control> {
    let controls = api.broker.controls(tenant).await?;
    Ok(controls.into_iter().find(|(other, _)| other == scope).map(|(_, control)| control).unwrap_or_default())
}

/// The operator's layers of a tenant.
pub(crate) struct Operators(Stored);

impl Operators {
    pub(crate) async fn read(api: &Api, tenant: &TenantId) -> Result<Self> {
        Ok(Self(read(api, tenant).await?.0))
    }

    /// The control that an operator set for a scope, if any.
    pub(crate) fn of(&self, scope: &Scope) -> Option<&Control> {
        self.0.scopes.get(&name_of(scope)).map(|layers| &layers.operator)
    }
}

/// The layers of a scope.
pub(crate) async fn layers_of(api: &Api, tenant: &TenantId, scope: &Scope) -> Result<Layers> {
    match read(api, tenant).await?.0.scopes.remove(&name_of(scope)) {
        Some(layers) => Ok(layers),
        None => Ok(Layers { tenant: control_of(api, tenant, scope).await?, operator: Control::default() }),
    }
}

/// Changes one layer of a scope by the patch that `patch` makes from it; answers both.
pub(crate) async fn change(
    api: &Api,
    tenant: &TenantId,
    scope: &Scope,
    layer: Layer,
    patch: impl Fn(&Control) -> Result<ControlPatch>,
) -> Result<Layers> {
    let name = name_of(scope);
    for _ in 0..ATTEMPTS {
        let (mut stored, version) = read(api, tenant).await?;
        let layers = match stored.scopes.get(&name) {
            Some(layers) => Some(layers.clone()),
            None if layer == Layer::Operator => {
                Some(Layers { tenant: control_of(api, tenant, scope).await?, operator: Control::default() })
            }
            None => None,
        };
        let Some(mut layers) = layers else {
            // Only the tenant's own layer exists.
            let own = control_of(api, tenant, scope).await?;
            let control = set(api, tenant, scope, &patch(&own)?).await?;
            if read(api, tenant).await?.1 == version {
                return Ok(Layers { tenant: control, operator: Control::default() });
            }
            continue;
        };
        let change = patch(layers.of(layer))?;
        layers.change(layer, &change);
        if layers.operator == Control::default() {
            stored.scopes.remove(&name);
        } else {
            stored.scopes.insert(name.clone(), layers.clone());
        }
        if stored.scopes.len() > MAX_SCOPES {
            let detail =
                format!("operators set so many controls of tenant `{tenant}` as may: {MAX_SCOPES}; clear some");
            return Err(Problem::too_many_documents(detail));
        }
        // A queue that does not exist, and a control too many, are refused before a layer is written.
        let holding = set(api, tenant, scope, &whole(&layers.holding())).await?;
        tracing::debug!(?scope, ?holding, "the control of both layers was set");
        if let Some(version) = write(api, tenant, &stored, version).await? {
            settle(api, tenant, scope, version).await?;
            return Ok(layers);
        }
    }
    Err(Problem::concurrent_change("others keep changing the controls of this tenant; try again"))
}

/// Writes the layers if their version is still `version`; answers the new one. None after a conflict.
async fn write(api: &Api, tenant: &TenantId, stored: &Stored, version: u64) -> Result<Option<u64>> {
    let expect = if version == 0 { Expect::Absent } else { Expect::Version(version) };
    let put = records::write_of(tenant, DocumentKind::ControlLayers, NAME, expect, stored);
    match api.broker.put_document(&PutDocument { expect, ..put }).await? {
        DocumentPut::Stored(version) => Ok(Some(version)),
        DocumentPut::Conflict(_) => Ok(None),
        DocumentPut::Full | DocumentPut::StorageFull => {
            Err(Problem::too_many_documents("no document of this kind fits"))
        }
    }
}

/// Sets the control that holds until no layer was written meanwhile: of two writers, the one that sets it last may have
/// been the first to write its layer.
async fn settle(api: &Api, tenant: &TenantId, scope: &Scope, mut version: u64) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let (mut stored, newest) = read(api, tenant).await?;
        if let Some(layers) = stored.scopes.remove(&name_of(scope)) {
            set(api, tenant, scope, &whole(&layers.holding())).await?;
        }
        if newest == version {
            return Ok(());
        }
        version = newest;
    }
    Err(Problem::concurrent_change("others keep changing the controls of this tenant; try again"))
}

/// Every field of a control, as a change.
fn whole(control: &Control) -> ControlPatch {
    let &Control { paused, rate, concurrency, exclusive } = control;
    ControlPatch { paused: Some(paused), rate: Some(rate), concurrency: Some(concurrency), exclusive: Some(exclusive) }
}

async fn set(api: &Api, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<Control> {
    match api.broker.set_control(tenant, scope, patch).await? {
        ControlSet::Set(control) => Ok(control),
        ControlSet::Unknown => {
            let name = match scope {
                Scope::Queue(name) => name.as_str(),
                _ => "",
            };
            Err(Problem::no_queue(name))
        }
        ControlSet::TooManyQueues => Err(Problem::too_many_queues("set controls of queues that exist")),
        ControlSet::Full => Err(Problem::too_many_documents("so many tasks have a control as may; clear some")),
    }
}
