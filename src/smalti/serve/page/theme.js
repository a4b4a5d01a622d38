// Before anything is painted: the colours that were chosen here, or else the system's.
document.documentElement.dataset.theme =
  localStorage.getItem("smalti.theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
