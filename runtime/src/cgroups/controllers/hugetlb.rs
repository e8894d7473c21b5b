//! hugetlb: huge pages (Documentation/admin-guide/cgroup-v1/hugetlb.rst).

use oci_spec::runtime::LinuxHugepageLimit;

use super::super::Error;
use super::super::plan::{Builder, unavailable};

/// Plans `limits`, bytes for each page size (`2MB`).
pub(crate) fn plan(builder: &mut Builder<'_>, limits: &[LinuxHugepageLimit]) -> Result<(), Error> {
    for limit in limits {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(unavailable("hugepageLimits", format!("{size:?} is no page size")));
        }
        let place = builder.place("hugetlb", "hugepageLimits")?;
        let name = if place.unified { "max" } else { "limit_in_bytes" };
        builder.write(place, format!("hugetlb.{size}.{name}"), limit.limit());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::tests::{HYBRID, UNIFIED};
    use super::super::super::plan::tests::planned;
    use serde_json::json;

    #[test]
    fn a_page_size_is_a_word() {
        let limits = |size: &str| json!({"hugepageLimits": [{"pageSize": size, "limit": 9}]});
        assert_eq!(planned(UNIFIED, limits("2MB")).unwrap()[0].0, "hugetlb.2MB.max");
        assert!(planned(UNIFIED, limits("../x")).is_err());
        assert!(
            planned(HYBRID, limits("2MB")).is_err(),
            "no hugetlb hierarchy there"
        );
    }
}
