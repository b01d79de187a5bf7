"use strict";
// Refreshes a page while a run is running: asks the JSON whether anything moved, then takes the
// page's own HTML anew. Without JavaScript the page reloads itself by a meta element instead.
(() => {
  const BUSY_MS = 2000;
  const IDLE_MS = 15000;
  const live = document.getElementById("live");
  let main = document.querySelector("main[data-poll]");
  if (!main || !window.fetch) return;
  let failures = 0;

  function keepOpen(fresh) {
    const key = (item) => item.querySelector("summary").textContent.replace(/\d+/g, "");
    const open = new Map([...main.querySelectorAll("details")].map((item) => [key(item), item.open]));
    for (const item of fresh.querySelectorAll("details")) {
      if (open.has(key(item))) item.open = open.get(key(item));
    }
  }

  function keepScroll(fresh) {
    const boxes = [...main.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    return () => [...fresh.querySelectorAll(".scroll")].forEach((box, index) => {
      box.scrollLeft = boxes[index] || 0;
    });
  }

  async function refresh() {
    const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = document.adoptNode(page.querySelector("main"));
    keepOpen(fresh);
    const restore = keepScroll(fresh);
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    const href = focused && focused.getAttribute("href");
    main.replaceWith(fresh);
    main = fresh;
    restore();
    if (href) {
      const again = [...main.querySelectorAll("a")].find((a) => a.getAttribute("href") === href);
      if (again) again.focus({ preventScroll: true });
    }
    document.title = page.title;
    live.textContent = "Updated " + new Date().toLocaleTimeString();
  }

  async function poll() {
    try {
      if (!document.hidden) {
        const answer = await fetch(main.dataset.poll, { cache: "no-store" });
        if (!answer.ok) throw new Error(answer.statusText);
        const state = await answer.json();
        const moved = state.updated_date.replace("Z", "+00:00") !== main.dataset.stamp;
        if (moved) await refresh();
        if (failures) live.textContent = "";
      }
      failures = 0;
    } catch (error) {
      failures += 1;
      live.textContent = "The server does not answer; trying again.";
    }
    const busy = main.dataset.running !== "0";
    setTimeout(poll, Math.min((busy ? BUSY_MS : IDLE_MS) * 2 ** Math.min(failures, 4), 60000));
  }

  setTimeout(poll, BUSY_MS);
})();
