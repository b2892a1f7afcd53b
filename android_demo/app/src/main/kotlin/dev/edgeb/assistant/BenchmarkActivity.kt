package dev.edgeb.assistant

import android.app.Activity
import android.app.AlertDialog
import android.app.Dialog
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.ProgressBar
import android.widget.TextView
import android.widget.Toast
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.Licenses
import dev.edgeb.assistant.logic.State
import dev.edgeb.runtime.EngineLicense
import org.json.JSONException
import org.json.JSONObject

/** Screen 2: the model, what a prediction costs on this phone, and the log. */
class BenchmarkActivity : Activity(), Controller.Listener {
    private lateinit var controller: Controller
    private lateinit var status: StatusPanel
    private lateinit var model: TextView
    private lateinit var hash: TextView
    private lateinit var license: TextView
    private lateinit var showLicense: View
    private lateinit var result: TextView
    private lateinit var measure: View
    private lateinit var saveJson: View
    private lateinit var saveLog: View
    private lateinit var addLog: View
    private lateinit var measured: ProgressBar
    private lateinit var deleteLog: View
    private var dialog: Dialog? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_benchmark)
        controller = (application as EdgebApplication).controller
        status = StatusPanel(this, controller) { startActivityForResult(Documents.toOpen(), it) }
        model = findViewById(R.id.model_text) as TextView
        hash = findViewById(R.id.model_hash) as TextView
        license = findViewById(R.id.model_license) as TextView
        showLicense = findViewById(R.id.show_license)
        result = findViewById(R.id.benchmark_result) as TextView
        measure = findViewById(R.id.run_benchmark)
        saveJson = findViewById(R.id.save_json)
        saveLog = findViewById(R.id.save_log)
        deleteLog = findViewById(R.id.delete_log)
        addLog = findViewById(R.id.add_log)
        measured = findViewById(R.id.measured) as ProgressBar
        addLog.setOnClickListener { startActivityForResult(Documents.toOpen(), StatusPanel.LOG) }
        measure.setOnClickListener { controller.measure() }
        val engines: View = findViewById(R.id.show_engine_licenses)
        engines.setOnClickListener {
            showText(Licenses.page(EngineLicense.shipped(BuildConfig.KLEIDIAI, BuildConfig.LITERT)))
        }
        val sources: View = findViewById(R.id.allow_sources)
        val settings = EventSources.settings()
        sources.visibility = if (settings == null) View.GONE else View.VISIBLE
        sources.setOnClickListener { if (settings != null) startActivity(settings) }
        saveJson.setOnClickListener {
            startActivityForResult(Documents.toCreate("edgeb-bench.json", "application/json"), SAVE_JSON)
        }
        saveLog.setOnClickListener { startActivityForResult(Documents.toCreate("history.csv", "text/csv"), SAVE_LOG) }
        deleteLog.setOnClickListener { askToDelete() }
    }

    override fun onStart() {
        super.onStart()
        controller.listen(this)
        controller.start()
    }

    override fun onStop() {
        controller.unlisten(this)
        controller.save()
        super.onStop()
    }

    override fun onDestroy() {
        dialog?.dismiss()
        super.onDestroy()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        val uri = data?.data
        if (resultCode != RESULT_OK || uri == null) return
        val context = applicationContext
        val done = Runnable { Toast.makeText(context, R.string.saved, Toast.LENGTH_SHORT).show() }
        val target = Documents.target(this, uri)
        when (requestCode) {
            SAVE_JSON -> controller.saveBenchmark(target, done)
            SAVE_LOG -> controller.saveLog(target, done)
            else -> status.onChosen(requestCode, Documents.source(this, uri))
        }
    }

    override fun onChanged() {
        val state = controller.state
        val formats = formatsOf(this)
        val now = controller.measuring
        status.show(state, alwaysChoose = true)
        val day = (state as? State.Ready)?.day
        model.visibility = if (day == null) View.GONE else View.VISIBLE
        hash.visibility = model.visibility
        license.visibility = model.visibility
        showLicense.visibility = if (day == null || day.model.licenseTexts.isEmpty()) View.GONE else View.VISIBLE
        if (day != null) showModel(day, formats)
        measured.visibility = if (now == null) View.GONE else View.VISIBLE
        measured.progress = now?.done ?: 0
        measured.keepScreenOn = now != null
        val json = controller.benchmark
        result.text = if (json == null) "" else table(json, formats)
        measure.isEnabled = day != null && !controller.busy
        saveJson.isEnabled = json != null && !controller.busy
        saveLog.isEnabled = !controller.busy
        addLog.isEnabled = day != null && !controller.busy
        deleteLog.isEnabled = !controller.busy
    }

    private fun showModel(day: Day, formats: Formats) {
        val facts = day.model
        model.text = getString(
            R.string.model_text, facts.architecture, facts.quantization, facts.labels.size,
            formats.bytes(day.modelBytes), facts.createdWith
        )
        val known = day.modelHash
        hash.text =
            if (known == null) getString(R.string.sha256_unknown) else getString(R.string.sha256, Formats.hash(known))
        val stated = facts.license
        license.text =
            if (stated.isEmpty()) getString(R.string.license_unknown)
            else getString(R.string.license, stated.joinToString("\n"))
        showLicense.setOnClickListener {
            showText(facts.licenseTexts.entries.joinToString("\n\n") { "${it.key}\n\n${it.value}" })
        }
    }

    private fun showText(text: String) {
        dialog = AlertDialog.Builder(this)
            .setMessage(text)
            .setPositiveButton(R.string.close, null)
            .show()
    }

    /** Median, 95th percentile and tokens of every scenario of the JSON; the JSON itself where it has none. */
    private fun table(json: String, formats: Formats): String {
        try {
            val scenarios = JSONObject(json).getJSONObject("scenarios")
            val lines = ArrayList<String>()
            for (name in scenarios.keys()) {
                val row = scenarios.getJSONObject(name)
                lines.add(
                    getString(
                        R.string.benchmark_row, name, formats.milliseconds(row.getDouble("p50_ms")),
                        formats.milliseconds(row.getDouble("p95_ms")), row.getString("tokens_per_prediction")
                    )
                )
            }
            return lines.joinToString("\n")
        } catch (error: JSONException) {
            return json
        }
    }

    private fun askToDelete() {
        dialog = AlertDialog.Builder(this)
            .setMessage(R.string.delete_log_question)
            .setPositiveButton(R.string.delete) { _, _ -> controller.deleteLog() }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private companion object {
        const val SAVE_JSON = StatusPanel.FIRST_FREE
        const val SAVE_LOG = StatusPanel.FIRST_FREE + 1
    }
}
