// Before anything is painted: the colours that were chosen here, if any were.
if (localStorage.getItem("smalti.theme")) {
  document.documentElement.dataset.theme = localStorage.getItem("smalti.theme");
}
