//! Finding out the labels of jobs that processes of older releases stored, see `library/labels.lua`.

use umbel_broker::{Label, Result};

use crate::{RedisBroker, args, connection::Repeat, encode::hashes, scan::Scan, token::token};

/// Jobs whose specs one call reads: a few milliseconds.
const READ: usize = 200;

/// A look through all jobs, by this process.
#[derive(Debug)]
pub(crate) struct Building {
    token: String,
    /// Of the connection: where a scan is means nothing to another server.
    generation: Option<u64>,
    scan: Scan,
}

impl RedisBroker {
    /// A step of finding out the labels of all jobs; whether more is left.
    pub(crate) async fn find_labels(&self) -> Result<bool> {
        let mut building = self.building.lock().await;
        let Some(mut now) = building.take() else {
            if self.typed::<i64>("has_labels", Vec::new(), Repeat::Safe).await? == 1 {
                return Ok(false);
            }
            let token = token();
            let generation = self.connection.generation();
            self.run("begin_labels", args([&token]), Repeat::Safe).await?;
            let scan = Scan::new(format!("{}*", self.connection.keys.jobs_prefix()));
            *building = Some(Building { token, generation, scan });
            return Ok(true);
        };
        if !self.find_labels_of_some(&mut now).await? || self.connection.generation() != now.generation {
            // It is begun anew.
            return Ok(true);
        }
        if !now.scan.is_over() {
            *building = Some(now);
            return Ok(true);
        }
        let is_complete: i64 = self.typed("finish_labels", args([&now.token]), Repeat::Safe).await?;
        Ok(is_complete == 0)
    }

    /// Those of the next keys; false when it must be begun anew.
    async fn find_labels_of_some(&self, building: &mut Building) -> Result<bool> {
        let prefix = self.connection.keys.jobs_prefix();
        let names = self.next_page(&mut building.scan).await?;
        let members: Vec<Vec<u8>> =
            names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(|member| member.into()).collect();
        let mut left = &members[..];
        while !left.is_empty() {
            let (looked_at, found) = self.unknown_labels(&left[..left.len().min(READ)]).await?;
            left = &left[looked_at..];
            if !self.add_labels(&format!("building {}", building.token), found).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many of some jobs were looked at, and those with labels which no list knows.
    pub(crate) async fn unknown_labels(&self, members: &[Vec<u8>]) -> Result<(usize, Vec<(String, Vec<Label>)>)> {
        let mut answer = self.answer("read_labels", members.to_vec(), Repeat::Safe).await?;
        let looked_at = answer.number()?.clamp(1, members.len() as i64) as usize;
        let mut found = answer.rest(|answer| Ok((answer.text()?, Label::all_in(&answer.text()?))))?;
        found.retain(|(_, labels)| !labels.is_empty());
        Ok((looked_at, found))
    }

    /// False when the state of the index is not this one.
    pub(crate) async fn add_labels(&self, state: &str, found: Vec<(String, Vec<Label>)>) -> Result<bool> {
        let mut args = args([&state]);
        args.extend(
            found.iter().flat_map(|(member, labels)| [member.clone().into_bytes(), hashes(labels).into_bytes()]),
        );
        Ok(self.typed::<i64>("add_labels", args, Repeat::Safe).await? == 1)
    }
}
