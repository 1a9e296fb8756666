// Replaces the page by its newer version where there is one, without a flicker: what is open and in view stays.
(() => {
  const PAUSE = 3000;
  let known = `"${document.documentElement.dataset.version}"`, asking = false;
  const texts = (all) => [...document.querySelectorAll(all)].map((one) => one.firstElementChild.textContent);
  const view = () => {
    const section = [...document.querySelectorAll("section")].find((one) => one.getBoundingClientRect().bottom > 0);
    return section && scrollY > 0 ? [section.id, section.getBoundingClientRect().top] : null;
  };
  const take = (page) => {
    const open = texts("details[open]"), shut = texts("details:not([open])"), seen = view();
    for (const name of ["title", "style", "header", "main", "footer"]) {
      document.querySelector(name).innerHTML = page.querySelector(name).innerHTML;
    }
    for (const one of document.querySelectorAll("details")) {
      const text = one.firstElementChild.textContent;
      one.open = open.includes(text) || (one.open && !shut.includes(text));
    }
    const section = seen && document.getElementById(seen[0]);
    if (section) scrollBy({ top: section.getBoundingClientRect().top - seen[1], behavior: "instant" });
  };
  const look = async () => {
    if (document.hidden || asking) return;
    asking = true;
    try {
      const answer = await fetch("/", { cache: "no-cache" });
      const version = answer.headers.get("ETag");
      if (answer.ok && version !== known) {
        take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        known = version;
      }
      document.documentElement.classList.remove("lost");
    } catch {
      document.documentElement.classList.add("lost");
    }
    asking = false;
  };
  setInterval(look, PAUSE);
  document.addEventListener("visibilitychange", look);
})();
