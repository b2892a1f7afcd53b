// Versions are in gradle/libs.versions.toml, modules in settings.gradle.kts, group and version in gradle.properties.
plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.android) apply false
    alias(libs.plugins.kotlin.jvm) apply false
    alias(libs.plugins.dokka)
}

// ./gradlew :dokkaGenerate
dependencies {
    dokka(project(":core"))
    dokka(project(":runtime"))
    dokka(project(":coroutines"))
}
