// Runs before the first paint, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("outpace.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // storage is switched off: the system's theme it is
}
