//! The values that tasks are configured with: of the tenant, and of each task, which go before. A record for each layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, DocumentKind};
use umbel_model::{ConfigName, TaskName, TenantId};

use crate::{Error, Result};

/// Values of one layer.
pub const MAX_CONFIG_VALUES: usize = 100;
/// One value, bytes.
pub const MAX_CONFIG_VALUE_BYTES: usize = 4 << 10;
/// Names and values of one layer together, bytes.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;

/// Whose values they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigLayer<'a> {
    /// Of each task of the tenant.
    Tenant,
    /// Of one task, whether it exists or not.
    Task(&'a TaskName),
}

impl ConfigLayer<'_> {
    /// The name of its record.
    pub fn record(self) -> String {
        match self {
            Self::Tenant => "tenant".to_owned(),
            Self::Task(name) => format!("task:{name}"),
        }
    }
}

/// The values of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDocument {
    pub values: BTreeMap<ConfigName, String>,
}

impl ConfigDocument {
    /// The values of a layer, and the version of its record: 0 where there is none.
    pub async fn read(broker: &dyn Broker, tenant: &TenantId, layer: ConfigLayer<'_>) -> Result<(Self, u64)> {
        let record = layer.record();
        let Some(document) = broker.document(tenant, DocumentKind::Config, &record).await? else {
            return Ok((Self::default(), 0));
        };
        let config = serde_json::from_str(&document.body);
        let config = config.map_err(|error| Error::Corrupt(format!("the configuration {record}: {error}")))?;
        Ok((config, document.version))
    }

    /// What a task sees: its own values, and those of the tenant that it has none for.
    pub async fn of_task(
        broker: &dyn Broker,
        tenant: &TenantId,
        task: &TaskName,
    ) -> Result<BTreeMap<ConfigName, String>> {
        let own = ConfigLayer::Task(task);
        let ((all, _), (own, _)) =
            futures::try_join!(Self::read(broker, tenant, ConfigLayer::Tenant), Self::read(broker, tenant, own))?;
        let mut values = all.values;
        values.extend(own.values);
        Ok(values)
    }

    /// Whether it is as large as a layer may be, at most.
    ///
    /// # Errors
    /// What is too large, and the name of the value if it is one: for people.
    pub fn check(&self) -> std::result::Result<(), (Option<&ConfigName>, String)> {
        let large = self.values.iter().find(|(_, value)| value.len() > MAX_CONFIG_VALUE_BYTES);
        if let Some((name, value)) = large {
            let text = format!("a value has at most {MAX_CONFIG_VALUE_BYTES} bytes, not {}", value.len());
            return Err((Some(name), text));
        }
        let bytes: usize = self.values.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if self.values.len() > MAX_CONFIG_VALUES || bytes > MAX_CONFIG_BYTES {
            let text = format!("at most {MAX_CONFIG_VALUES} values, and {MAX_CONFIG_BYTES} bytes of names and values");
            return Err((None, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use umbel_broker::{Expect, PutDocument, Registry as _};
    use umbel_broker_conformance::MemoryBroker;

    use super::*;

    fn document(values: &[(&str, String)]) -> ConfigDocument {
        let values = values.iter().map(|(name, value)| (ConfigName::new(name).unwrap(), value.clone()));
        ConfigDocument { values: values.collect() }
    }

    #[tokio::test]
    async fn a_task_sees_its_own_values_before_those_of_its_tenant() {
        let broker = MemoryBroker::new(Default::default(), Default::default());
        let (tenant, task, other) = ("t".parse().unwrap(), TaskName::new("a").unwrap(), TaskName::new("b").unwrap());
        let layers = [
            (ConfigLayer::Tenant, document(&[("url", "all".into()), ("region", "eu".into())])),
            (ConfigLayer::Task(&task), document(&[("url", "mine".into())])),
        ];
        for (layer, values) in layers {
            let put = PutDocument {
                tenant: TenantId::clone(&tenant),
                kind: DocumentKind::Config,
                name: layer.record(),
                expect: Expect::Any,
                body: Some(serde_json::to_string(&values).unwrap()),
                held_bytes: 0,
            };
            broker.put_document(&put).await.unwrap();
        }
        let seen = async |task: &TaskName| {
            let values = ConfigDocument::of_task(&broker, &tenant, task).await.unwrap();
            values.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(seen(&task).await, ["region=eu", "url=mine"]);
        assert_eq!(seen(&other).await, ["region=eu", "url=all"]);
    }

    #[test]
    fn a_layer_is_bounded_in_number_and_bytes() {
        let names: Vec<String> = (0..=MAX_CONFIG_VALUES).map(|n| format!("n{n}")).collect();
        let of = |count: usize, bytes: usize| {
            let values = names[..count].iter().map(|name| (name.as_str(), "x".repeat(bytes)));
            document(&values.collect::<Vec<_>>())
        };
        assert_eq!(of(MAX_CONFIG_VALUES, 0).check(), Ok(()));
        assert!(of(MAX_CONFIG_VALUES + 1, 0).check().is_err_and(|(name, _)| name.is_none()));
        assert_eq!(of(15, MAX_CONFIG_VALUE_BYTES).check(), Ok(()));
        assert!(of(17, MAX_CONFIG_VALUE_BYTES).check().is_err_and(|(name, _)| name.is_none()));
        let large = of(1, MAX_CONFIG_VALUE_BYTES + 1);
        assert_eq!(large.check().unwrap_err().0.map(ConfigName::as_str), Some("n0"));
    }
}
