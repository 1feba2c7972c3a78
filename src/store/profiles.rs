//! What was learned of sites.

use super::{Result, Store, on};
use crate::domain::baseline::Profile;
use crate::domain::ids::{AccountId, SiteId};
use crate::domain::time::Timestamp;

impl Store {
    pub async fn save_profile(
        &self,
        account_id: AccountId,
        site_id: SiteId,
        profile: &Profile,
        now: Timestamp,
    ) -> Result<()> {
        const SQL: &str = "
            INSERT INTO site_profiles (site_id, account_id, profile, updated_at)
            VALUES ($1, $2, $3, $4)
            ON CONFLICT (site_id) DO UPDATE
            SET profile = excluded.profile, updated_at = excluded.updated_at";
        let text = serde_json::to_string(profile).expect("a profile is numbers");
        on!(self.writer(), pool => sqlx::query(SQL)
            .bind(site_id).bind(account_id).bind(text).bind(now).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Every profile. One that cannot be read is left out: it will be learned again.
    pub async fn operator_profiles(&self) -> Result<Vec<(SiteId, Profile)>> {
        const SQL: &str = "SELECT site_id, profile FROM site_profiles";
        let rows: Vec<(SiteId, String)> = on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?;
        Ok(rows.into_iter().filter_map(|(site, text)| Some((site, serde_json::from_str(&text).ok()?))).collect())
    }
}
