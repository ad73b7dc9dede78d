// Before anything is drawn: the colours that were chosen here, if any were.
const chosen = localStorage.getItem("vizfetch-theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
